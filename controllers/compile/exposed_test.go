package compile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestExposedFindsWhatAWalkFinds: whatever selectors and labels there are.
func TestExposedFindsWhatAWalkFinds(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	labels := func(most int) map[string]string {
		out := map[string]string{}
		for range random.IntN(most + 1) {
			out[string(rune('a'+random.IntN(4)))] = string(rune('x' + random.IntN(2)))
		}
		return out
	}
	for range 2000 {
		var exposures []Exposure
		for i := range random.IntN(8) {
			exposures = append(exposures, Exposure{
				ServicePort: ServicePort{[]string{"shop", "bank"}[random.IntN(2)], fmt.Sprint("s", i), 80}, Selector: labels(3), Target: intstr.FromInt(random.IntN(3)),
			})
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: labels(4)}}
		var want, got []string
		for i := range exposures {
			if port, ok := exposures[i].PortOf(pod); ok {
				want = append(want, fmt.Sprint(exposures[i].Service, " ", port))
			}
		}
		for e, port := range NewExposed(exposures).Of(pod) {
			got = append(got, fmt.Sprint(e.Service, " ", port))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("labels %v: %v, want %v of %+v", pod.Labels, got, want, exposures)
		}
	}
	for range NewExposed([]Exposure{{ServicePort: ServicePort{"shop", "a", 80}, Selector: map[string]string{"app": "a"}, Target: intstr.FromInt(80)}}).
		Of(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{"app": "a"}}}) {
		break
	}
}

// TestExposedLooksAtFew: what is looked at for a pod does not grow with the namespace, though all Services of it share a
// label.
func TestExposedLooksAtFew(t *testing.T) {
	looked := func(services int) int {
		var exposures []Exposure
		for i := range services {
			exposures = append(exposures, Exposure{
				ServicePort: ServicePort{"shop", fmt.Sprint("s", i), 80}, Selector: map[string]string{"part-of": "shop", "app": fmt.Sprint("s", i)},
			})
		}
		return len(NewExposed(exposures).near(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Labels: map[string]string{"part-of": "shop", "app": "s3", "version": "1"},
		}}))
	}
	if few, many := looked(10), looked(10000); few != 1 || many != few {
		t.Errorf("%d exposures of 10 and %d of 10,000 are looked at for one pod, want 1", few, many)
	}
}
