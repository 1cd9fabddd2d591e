package controllers

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// populated returns a World with namespaces of so many Services, each with a strict port and a pod behind it.
func populated(namespaces, services int) (*World, []*corev1.Pod) {
	w := NewWorld()
	w.Hub = distribute.NewHub(distribute.HubOptions{
		Layers: []distribute.Layer{distribute.LayerWorkloads}, NodeLayers: []distribute.Layer{distribute.LayerCapture, distribute.LayerInbound},
	})
	w.enrolled = map[string]bool{}
	var pods []*corev1.Pod
	exposures := map[string][]compile.Exposure{}
	for n := range namespaces {
		namespace := fmt.Sprintf("shop-%d", n)
		w.enrolled[namespace] = true
		for s := range services {
			name, i := fmt.Sprintf("web-%d", s), len(pods)
			pods = append(pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: name, UID: types.UID(namespace + name), ResourceVersion: "1",
					Labels: map[string]string{"app": name, "part-of": "shop"},
				},
				Spec:   corev1.PodSpec{NodeName: fmt.Sprint("n", i%100), ServiceAccountName: "web"},
				Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()}}, Phase: corev1.PodRunning},
			})
			exposures[namespace] = append(exposures[namespace], compile.Exposure{
				ServicePort: compile.ServicePort{Namespace: namespace, Service: name, Port: 80}, Strict: true,
				Selector: map[string]string{"app": name, "part-of": "shop"}, Target: intstr.FromInt32(8080),
			})
		}
	}
	w.setExposures(exposures)
	return w, pods
}

// look has pods looked at, and returns what nodes and proxies are to be told anew.
func (w *World) look(pods []*corev1.Pod) (inbounds, workloads int) {
	before := maps.Clone(w.workloads)
	claimed := compile.Claimed(pods, nil)
	w.inbound(pods, claimed)
	inbounds = len(w.inboundChanges)
	w.inboundChanges = nil
	w.publishWorkloads(compile.Workloads(claimed, w.enrolled, nil, w.workloads), compile.Sidecars(pods, claimed, w.enrolled, w.exposed(), nil))
	for ref, r := range w.workloads {
		if before[ref] != r {
			workloads++
		}
	}
	return inbounds, workloads
}

// TestAPodThatChangesIsOnePod: what is made anew for it does not grow with the namespace.
func TestAPodThatChangesIsOnePod(t *testing.T) {
	for _, services := range []int{2, 200} {
		w, pods := populated(2, services)
		if inbounds, workloads := w.look(pods); inbounds != len(pods) || workloads != len(pods) {
			t.Fatalf("at first %d Inbounds and %d Workloads of %d pods", inbounds, workloads, len(pods))
		}
		made := func() (n int) {
			before := maps.Clone(w.inbounds["shop-0"].pods)
			inbounds, workloads := w.look(pods)
			for uid, p := range w.inbounds["shop-0"].pods {
				if before[uid] != p {
					n++
				}
			}
			if inbounds > 1 || workloads > 1 {
				t.Errorf("%d Services: %d Inbounds and %d Workloads are told anew", services, inbounds, workloads)
			}
			return n
		}
		if n := made(); n != 0 {
			t.Errorf("%d Services: %d Inbounds are made although nothing has changed", services, n)
		}
		pods = slices.Clone(pods)
		pods[1] = pods[1].DeepCopy()
		pods[1].ResourceVersion, pods[1].Spec.ServiceAccountName, pods[1].Labels["app"] = "2", "other", "nothing"
		seq := w.Hub.Seq()
		if n := made(); n != 1 || w.Hub.Seq() != seq+1 {
			t.Errorf("%d Services: %d Inbounds are made for one pod in %d publications of Workloads", services, n, w.Hub.Seq()-seq)
		}
		if n := len(w.inbounds["shop-0"].guarded[compile.ServicePort{Namespace: "shop-0", Service: "web-1", Port: 80}]); n != 0 {
			t.Errorf("%d pods are behind a port whose pod is another one's now", n)
		}
		pods = slices.Delete(slices.Clone(pods), 1, 2)
		if made(); len(w.workloads) != len(pods) || len(w.inbounds["shop-0"].pods) != services-1 {
			t.Errorf("%d Services: a pod that is gone is not", services)
		}
	}
}

// TestNumbersWithoutADestination: counted change by change it is the same as if all were looked at.
func TestNumbersWithoutADestination(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := NewWorld()
	w.Hub = distribute.NewHub(distribute.HubOptions{Layers: []distribute.Layer{distribute.LayerCompiled}})
	settings := compile.Snapshot{
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}}}},
		Numbers:    compile.Numbers{{UID: "from before", Port: 80}: wire.MinNumber + 7},
	}
	var d compile.Delta
	w.compiler, d = compile.NewCompiler(settings)
	w.publishResources(&d)
	if len(w.unused) != 1 {
		t.Fatalf("unused are %v, want the number of before", w.unused)
	}
	for step := range 300 {
		changes := compile.Changes{Services: map[types.NamespacedName]*corev1.Service{}}
		for range 1 + random.IntN(3) {
			name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("s", random.IntN(4))}
			changes.Services[name] = nil
			if random.IntN(3) > 0 {
				changes.Services[name] = &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, UID: types.UID(fmt.Sprint(name.Name, random.IntN(50)))},
					Spec:       corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Port: 80}, {Port: int32(81 + random.IntN(2)), Name: "x"}}},
				}
			}
		}
		w.recount = w.recount || w.unpublished.Resources != nil
		w.unpublished = w.unpublished.Then(w.compiler.Update(changes))
		if random.IntN(5) == 0 {
			continue // the numbers could not be saved
		}
		d := w.unpublished
		w.unpublished = compile.Delta{}
		w.publishResources(&d)
		if random.IntN(2) == 0 {
			w.finishRetirement()
		}
		active := map[uint16]int{}
		for _, r := range w.published {
			if r.Destination != nil {
				active[r.Destination.Number]++
			}
		}
		unused := map[compile.NumberKey]bool{}
		for key, number := range w.compiler.Numbers() {
			if active[number] == 0 {
				unused[key] = true
			}
		}
		if !maps.Equal(active, w.numbered) || len(unused) != len(w.unused) {
			t.Fatalf("step %d: numbers in use %v and unused %v, want %v and %v", step, w.numbered, w.unused, active, unused)
		}
		for key := range unused {
			if _, known := w.unused[key]; !known {
				t.Fatalf("step %d: %v is unused and not known to be", step, key)
			}
		}
	}
}

// BenchmarkPods is what a change of one pod costs of 10,000, each of which has a Service: in one namespace, and in many.
func BenchmarkPods(b *testing.B) {
	for _, namespaces := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d namespaces", namespaces), func(b *testing.B) {
			w, pods := populated(namespaces, 10000/namespaces)
			w.look(pods)
			version := 1
			for b.Loop() {
				version++
				pods[0].ResourceVersion = strconv.Itoa(version)
				w.look(pods)
			}
		})
	}
}

// BenchmarkNewDestination is what a destination costs that is added to 10,000.
func BenchmarkNewDestination(b *testing.B) {
	for _, namespaces := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d namespaces", namespaces), func(b *testing.B) {
			w := newCapturing(namespaces, 10000/namespaces)
			w.publishToNodes()
			for i := 0; b.Loop(); i++ {
				w.publish("shop-0", fmt.Sprint("new-", i%2))
				w.publishToNodes()
			}
		})
	}
}
