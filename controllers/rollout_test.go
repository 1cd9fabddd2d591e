package controllers

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/infra"
)

func TestPlanRoll(t *testing.T) {
	complete := func(template string) proxySet {
		return proxySet{Deployed: infra.Deployed{Template: template, Available: 2, Complete: true}, Acknowledged: true}
	}
	changed := func(s proxySet, change func(*proxySet)) proxySet {
		change(&s)
		return s
	}
	halfReplaced := func(s *proxySet) { s.Complete, s.Replacing, s.Replaces = false, true, "older" }
	for name, tc := range map[string]struct {
		sets map[string]proxySet
		want roll
	}{
		"nothing is enrolled": {},
		"all have it": {
			sets: map[string]proxySet{"a": complete("new"), "b": complete("new")},
			want: roll{total: 2, current: 2},
		},
		"the first has its turn": {
			sets: map[string]proxySet{"b": complete("old"), "a": complete("old"), "c": complete("old")},
			want: roll{total: 3, next: "a", waiting: []string{"b", "c"}},
		},
		"a release that did not say what it applied": {
			sets: map[string]proxySet{"a": complete("")},
			want: roll{total: 1, next: "a"},
		},
		"one is being replaced": {
			sets: map[string]proxySet{"a": changed(complete("new"), halfReplaced), "b": complete("old")},
			want: roll{total: 2, replacing: []string{"a"}, waiting: []string{"b"}},
		},
		"one is replaced, and a new proxy is not ready any more": {
			sets: map[string]proxySet{"a": changed(complete("new"), func(s *proxySet) { s.Complete, s.Replaces = false, "old" }), "b": complete("old")},
			want: roll{total: 2, replacing: []string{"a"}, waiting: []string{"b"}},
		},
		"one is replaced, and has not acknowledged anything": {
			sets: map[string]proxySet{"a": changed(complete("new"), func(s *proxySet) { s.Acknowledged, s.Replaces = false, "old" }), "b": complete("old")},
			want: roll{total: 2, replacing: []string{"a"}, waiting: []string{"b"}},
		},
		"the next has its turn": {
			sets: map[string]proxySet{"a": changed(complete("new"), func(s *proxySet) { s.Replaces = "old" }), "b": complete("old")},
			want: roll{total: 2, current: 1, next: "b"},
		},
		"a proxy is away when all have the template": {
			sets: map[string]proxySet{"a": changed(complete("new"), func(s *proxySet) { s.Complete, s.Replaces = false, "old" }), "b": complete("new")},
			want: roll{total: 2, current: 2},
		},
		"a namespace that came with the template does not become ready": {
			sets: map[string]proxySet{"a": {Deployed: infra.Deployed{Template: "new"}}, "b": complete("old")},
			want: roll{total: 2, current: 1, next: "b"},
		},
		"a namespace in which nothing serves needs no turn": {
			sets: map[string]proxySet{"a": {Deployed: infra.Deployed{Template: "old"}}, "b": complete("old")},
			want: roll{total: 2, next: "b"},
		},
		"what was half replaced with another template comes first": {
			sets: map[string]proxySet{"a": complete("old"), "b": changed(complete("bad"), halfReplaced)},
			want: roll{total: 2, next: "b", waiting: []string{"a"}},
		},
		"then what cannot enforce what is asked of it": {
			sets: map[string]proxySet{"a": complete("old"), "b": changed(complete("old"), func(s *proxySet) { s.Unfit = true })},
			want: roll{total: 2, next: "b", waiting: []string{"a"}},
		},
		"one has failed": {
			sets: map[string]proxySet{
				"a": changed(complete("new"), func(s *proxySet) { halfReplaced(s); s.Failed = "no progress" }), "b": complete("old"),
			},
			want: roll{total: 2, replacing: []string{"a"}, waiting: []string{"b"}, failed: map[string]string{"a": "no progress"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := planRoll("new", tc.sets); !got.same(tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

// TestRollOneAtATime plays Deployments that get on at random: never are two namespaces' proxies replaced at once,
// whatever template is wanted meanwhile, and in the end all have the last one, unless it does not work.
func TestRollOneAtATime(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		sets := map[string]proxySet{}
		for i := range 1 + random.IntN(6) {
			sets[strconv.Itoa(i)] = proxySet{Deployed: infra.Deployed{Template: "1", Available: 2, Complete: true}, Acknowledged: true}
		}
		wanted, broken := "2", seed%3 == 0
		for range 200 {
			r := planRoll(wanted, sets)
			if s, ok := sets[r.next]; ok {
				s.Replaces, s.Template = s.Template, wanted
				s.Complete, s.Replacing = false, true
				sets[r.next] = s
			}
			busy := 0
			for namespace, s := range sets {
				if s.Replacing {
					busy++
				}
				if works := s.Template != "2" || !broken; works && random.IntN(2) == 0 {
					s.Complete, s.Replacing = true, false
					sets[namespace] = s
				}
			}
			if busy > 1 {
				t.Fatalf("seed %d: %d namespaces were replaced at once", seed, busy)
			}
			if random.IntN(50) == 0 {
				wanted = "3"
			}
		}
		switch r := planRoll(wanted, sets); {
		case broken && wanted == "2":
			if len(r.replacing) != 1 || r.current != 0 {
				t.Errorf("seed %d: a template that does not work was not stopped: %+v", seed, r)
			}
		case r.rolling():
			t.Errorf("seed %d: it did not end: %+v", seed, r)
		}
	}
}

func TestProxiesCurrent(t *testing.T) {
	proxy := func(change func(*corev1.Pod)) []*corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "weft-proxy-1",
			Labels: map[string]string{meshv1alpha1.ComponentLabel: compile.ComponentProxy}}}
		change(p)
		return []*corev1.Pod{p}
	}
	waits := func(reason string) []*corev1.Pod {
		return proxy(func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "image not found"}}}}
		})
	}
	replacing := roll{total: 3, current: 1, replacing: []string{"shop"}, waiting: []string{"till"}}
	for name, tc := range map[string]struct {
		roll  roll
		unfit []string
		pods  []*corev1.Pod
		want  string
		says  []string
	}{
		"all":       {roll: roll{total: 2, current: 2}, want: "True/Current"},
		"under way": {roll: replacing, pods: waits("ContainerCreating"), want: "False/Rolling", says: []string{"1 of 3", "replaced in shop", "1 wait"}},
		"an image that is not there": {
			roll: replacing, pods: waits("ImagePullBackOff"), want: "False/Stuck",
			says: []string{"shop: pod weft-proxy-1: ImagePullBackOff: image not found", "spec.proxy"},
		},
		"a policy that old proxies do not know": {
			roll: replacing, unfit: []string{"till"}, want: "False/Rolling", says: []string{"1 of 3", "MeshAuthorizations of till"},
		},
		"old proxies that are wanted": {
			roll: roll{total: 2, current: 2}, unfit: []string{"till"}, want: "False/Outdated", says: []string{"MeshAuthorizations of till"},
		},
		"no node takes it": {
			roll: replacing, want: "False/Stuck", says: []string{"Unschedulable: 0/2 nodes"},
			pods: proxy(func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes"}}
			}),
		},
		"no progress": {
			roll: roll{total: 3, replacing: []string{"shop"}, failed: map[string]string{"shop": "has timed out progressing"}},
			want: "False/Stuck", says: []string{"shop: has timed out"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := proxiesCurrent(tc.roll, tc.unfit, tc.pods)
			if diff := cmp.Diff(tc.want, string(c.Status)+"/"+c.Reason); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, text := range tc.says {
				if !strings.Contains(c.Message, text) {
					t.Errorf("%q does not say %q", c.Message, text)
				}
			}
		})
	}
}
