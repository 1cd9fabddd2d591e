package compile_test

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
)

// inboundsOf makes the Inbounds of the pods of a case, whose UIDs are their names.
func inboundsOf(t *testing.T, input []byte, result compile.Result) []goldenResource {
	t.Helper()
	var pods []*corev1.Pod
	for _, document := range splitDocuments(input) {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(document, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == "Pod" {
			if err := readObject(document, &pods); err != nil {
				t.Fatal(err)
			}
		}
	}
	wanted := map[types.NamespacedName]bool{}
	for _, e := range result.Exposures {
		for _, account := range e.Accounts {
			wanted[account] = true
		}
	}
	accounts := compile.AccountAddresses(compile.Claimed(pods, nil), wanted)
	var out []goldenResource
	for _, namespace := range result.Enrolled {
		own := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return p.Namespace != namespace })
		exposures := slices.DeleteFunc(slices.Clone(result.Exposures), func(e compile.Exposure) bool { return e.Namespace != namespace })
		inbounds := compile.Inbounds(own, compile.NewExposed(exposures), accounts, "namespace")
		slices.Reverse(own)
		slices.Reverse(exposures)
		if diff := differ(inbounds, compile.Inbounds(own, compile.NewExposed(exposures), accounts, "namespace")); diff != "" {
			t.Errorf("the order of lists matters (-first +reversed):\n%s", diff)
		}
		for _, r := range inbounds {
			out = append(out, show(r))
		}
	}
	return out
}

func TestAddressesThatTwoPodsClaimAreNobodys(t *testing.T) {
	pod := func(name string, addresses ...string) *corev1.Pod {
		p := &corev1.Pod{}
		p.Namespace, p.Name, p.UID = "monitoring", name, types.UID(name)
		p.Spec.NodeName, p.Spec.ServiceAccountName = "n1", "prometheus"
		for _, a := range addresses {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
		}
		return p
	}
	account := types.NamespacedName{Namespace: "monitoring", Name: "prometheus"}
	claimed := compile.Claimed([]*corev1.Pod{pod("a", "10.0.0.1", "fd00::1"), pod("b", "10.0.0.1"), pod("c", "10.0.0.1", "10.0.0.3")}, nil)
	got := compile.AccountAddresses(claimed, map[types.NamespacedName]bool{account: true})[account]
	want := []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::1")}
	if !slices.Equal(got, want) {
		t.Errorf("addresses of %s: %v, want %v", account, got, want)
	}
}
