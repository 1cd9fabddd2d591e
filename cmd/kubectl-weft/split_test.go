package main

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/wire"
)

// splitRoute is a route with one rule for everybody and one that has a single backend. It is programmed.
func splitRoute(weights map[string]int32) *gwv1.HTTPRoute {
	r := webRoute("web", "web-v1")
	r.Generation = 1
	r.Spec.Rules = append(r.Spec.Rules, webRoute("web", "web-v1").Spec.Rules...)
	everybody := gwv1.SectionName("everybody")
	r.Spec.Rules[1].Name = &everybody
	r.Spec.Rules[1].BackendRefs = nil
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		ref := webRoute("web", name).Spec.Rules[0].BackendRefs[0]
		w := weights[name]
		ref.Weight = &w
		r.Spec.Rules[1].BackendRefs = append(r.Spec.Rules[1].BackendRefs, ref)
	}
	r.Status.Parents = []gwv1.RouteParentStatus{{
		ControllerName: meshv1alpha1.ControllerName,
		Conditions:     []metav1.Condition{{Type: status.ConditionProgrammed, Status: metav1.ConditionTrue, ObservedGeneration: 1}},
	}}
	return r
}

func TestShares(t *testing.T) {
	for name, tc := range map[string]struct {
		weights map[string]int32
		set     string
		want    string
		err     string
	}{
		"the other gets the rest":           {map[string]int32{"web-v1": 90, "web-v2": 10}, "v2=20", "80 20", ""},
		"whatever it had":                   {map[string]int32{"web-v1": 0, "web-v2": 10}, "web-v2=20", "80 20", ""},
		"others share it":                   {map[string]int32{"web-v1": 3, "web-v2": 1, "web-v3": 0}, "v3=20", "60 20 20", ""},
		"what rounding leaves":              {map[string]int32{"web-v1": 1, "web-v2": 1, "web-v3": 1}, "v1=1", "1 49 50", ""},
		"not to those without a share":      {map[string]int32{"web-v1": 7, "web-v2": 7, "web-v3": 0, "web-v4": 5}, "v4=0", "50 50 0 0", ""},
		"all of them":                       {map[string]int32{"web-v1": 1, "web-v2": 1}, "v1=30,v2=70", "30 70", ""},
		"everything":                        {map[string]int32{"web-v1": 1, "web-v2": 1}, "v2=100", "0 100", ""},
		"too much":                          {map[string]int32{"web-v1": 1, "web-v2": 1}, "v1=50,v2=51", "", "the shares make 101 %, not 100"},
		"too little":                        {map[string]int32{"web-v1": 1, "web-v2": 1}, "v1=50,v2=49", "", "the shares make 99 %, not 100"},
		"nobody to take the rest":           {map[string]int32{"web-v1": 0, "web-v2": 0, "web-v3": 1}, "v3=50", "", "50 % are left for backends that have none now: set all of them"},
		"nobody":                            {map[string]int32{"web-v1": 1, "web-v2": 1}, "v9=50", "", `rule everybody of HTTPRoute shop/web has no backend "v9": it has web-v1, web-v2`},
		"an end of several names":           {map[string]int32{"web-a-v1": 1, "web-b-v1": 1}, "v1=50", "", `"v1" is the end of several backends: write one of web-a-v1, web-b-v1`},
		"one backend by both of its names":  {map[string]int32{"web-v1": 1, "web-v2": 1}, "v1=50,web-v1=50", "", "--set names web-v1 twice"},
		"a share that is none":              {map[string]int32{"web-v1": 1, "web-v2": 1}, "v1=half", "", `--set "v1=half" is not written as BACKEND=PERCENT, from 0 to 100`},
		"a share of more than there can be": {map[string]int32{"web-v1": 1, "web-v2": 1}, "v1=101", "", `--set "v1=101" is not written as BACKEND=PERCENT`},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{objects: append(installed(), splitRoute(tc.weights))}
			got := w.run(t, "split", "shop/web", "--set", tc.set, "-o", "json")
			if tc.err != "" {
				if got.code == exitOK || !strings.HasPrefix(got.err, "error: "+tc.err) {
					t.Errorf("exit code %d, %s; want %s", got.code, got.err, tc.err)
				}
				return
			}
			r := &gwv1.HTTPRoute{}
			if err := w.client.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web"}, r); err != nil {
				t.Fatal(err)
			}
			var weights []string
			for _, ref := range r.Spec.Rules[1].BackendRefs {
				weights = append(weights, strconv.Itoa(int(*ref.Weight)))
			}
			if diff := cmp.Diff(tc.want, strings.Join(weights, " ")); diff != "" || got.code != exitOK {
				t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
			}
			// Nothing else is touched.
			want := splitRoute(tc.weights)
			for i := range want.Spec.Rules[1].BackendRefs {
				want.Spec.Rules[1].BackendRefs[i].Weight = r.Spec.Rules[1].BackendRefs[i].Weight
			}
			if diff := cmp.Diff(want.Spec, r.Spec); diff != "" {
				t.Errorf("more than weights has changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSplitOfChangedRoute(t *testing.T) {
	old := splitRoute(map[string]int32{"web-v1": 1, "web-v2": 1})
	s := &splitting{object: old, kind: "HTTPRoute", rule: 1}
	patch, err := json.Marshal(s.patch([]int32{20, 80}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"op":"test","path":"/metadata/generation","value":1},` +
		`{"op":"add","path":"/spec/rules/1/backendRefs/0/weight","value":20},{"op":"add","path":"/spec/rules/1/backendRefs/1/weight","value":80}]`
	if string(patch) != want {
		t.Errorf("patch = %s, want %s", patch, want)
	}
	if why := unprogrammed(old); why != "" {
		t.Errorf("a programmed route: %s", why)
	}
	old.Generation = 2
	if why := unprogrammed(old); why != "generation 2 has not been seen yet" {
		t.Errorf("a changed route: %q", why)
	}
	old.Status.Parents[0].Conditions[0] = metav1.Condition{Type: status.ConditionProgrammed, Status: metav1.ConditionFalse, ObservedGeneration: 2, Reason: "Pending", Message: "1 of 2"}
	w := &world{objects: append(installed(), old)}
	got := w.run(t, "split", "shop/web", "--set", "v1=50", "--timeout", "400ms")
	if got.code != exitNo || !strings.HasPrefix(got.err, "error: HTTPRoute shop/web is changed, but not all proxies have it: Pending: 1 of 2; see kubectl weft proxy status") {
		t.Errorf("exit code %d, %s", got.code, got.err)
	}
}

func TestSplitRules(t *testing.T) {
	two := splitRoute(map[string]int32{"web-v1": 3, "web-v2": 1})
	two.Spec.Rules = append(two.Spec.Rules, *two.Spec.Rules[1].DeepCopy())
	two.Spec.Rules[2].Name = nil
	w := &world{objects: append(installed(), two)}
	if got := w.run(t, "split", "shop/web"); got.code != exitUsage || !strings.HasSuffix(got.err, "choose one with --rule: everybody of HTTPRoute, 2 of HTTPRoute\n") {
		t.Errorf("several rules: exit code %d, %s", got.code, got.err)
	}
	got := w.run(t, "split", "web", "-n", "shop", "--rule", "everybody")
	want := `HTTPRoute/shop/web, rule everybody
BACKEND          WEIGHT   DECLARED
shop/web-v1:80   3        75.0 %
shop/web-v2:80   1        25.0 %
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != exitOK {
		t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
	}
	for args, want := range map[string]string{
		"split shop/web --rule none": `error: route shop/web has no rule "none" with backends`,
		"split shop/other":           "error: HTTPRoute or GRPCRoute shop/other does not exist",
	} {
		if got := w.run(t, strings.Fields(args)...); got.code != exitAbsent || !strings.HasPrefix(got.err, want) {
			t.Errorf("%s: exit code %d, %s", args, got.code, got.err)
		}
	}
}

func TestWatchSplit(t *testing.T) {
	w := liveWorld()
	w.objects = append(installed(), splitRoute(map[string]int32{"web-v1": 75, "web-v2": 25}))
	p := w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1})
	labels := func(rule, backend string) telemetry.Labels {
		return telemetry.Labels{Listener: "captured", Destination: "shop/web:80", Route: "HTTPRoute/shop/web", Rule: rule, Backend: backend}
	}
	v1, v2, other := p.metrics.Series(labels("everybody", "shop/web-v1:80")), p.metrics.Series(labels("everybody", "shop/web-v2:80")), p.metrics.Series(labels("0", "shop/web-v1:80"))
	request := &telemetry.Outcome{Status: 200, Took: time.Millisecond}
	v1.Request(request)
	looks := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.answered(t, func() {
		if looks++; looks == 4 {
			cancel()
		}
		for range 60 {
			v1.Request(request)
			other.Request(request)
		}
		for range 40 {
			v2.Request(request)
		}
	})
	got := w.runIn(ctx, t, "split", "shop/web", "--watch", "--window", "1ms")
	// What is there when the first look has begun may be counted in it or not.
	if got.code != exitInterrupted || !strings.Contains(got.out, "shop/web-v2:80   25       25.0 %     40.0 %") || !strings.Contains(got.out, " off ") {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
}

func TestInterval(t *testing.T) {
	for _, tc := range []struct {
		n, of     int64
		low, high float64
	}{{0, 10, 0, 27.8}, {10, 10, 72.2, 100}, {50, 100, 40.4, 59.6}, {900, 1000, 88, 91.7}} {
		low, high := interval(tc.n, tc.of)
		if math.Abs(low-tc.low) > 0.1 || math.Abs(high-tc.high) > 0.1 {
			t.Errorf("of %d in %d: %.1f to %.1f, want %.1f to %.1f", tc.n, tc.of, low, high, tc.low, tc.high)
		}
	}
}
