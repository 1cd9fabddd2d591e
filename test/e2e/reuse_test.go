//go:build e2e

package e2e

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestAddressReuse gives the address of a pod that has ended to one with another ServiceAccount. What that
// one sends carries its own identity, from its first connection on. The other end of the hop says so: a pod
// of the test that stands beside the proxies of the Service's namespace.
func TestAddressReuse(t *testing.T) {
	const node = "node1"
	// A proxy of its own knows its pod without an address, and would ask no other than the backend's, so no witness either.
	home, abroad := shared(t, bed.Namespace(t, true)), shared(t, bed.Namespace(t, true))
	bed.Run(t, home, testbed.App{Name: "v1", Version: "v1", Node: node})
	bed.Create(t, testbed.NewService(home, "web", onlyV1))
	bed.Proxies(t, home)
	bed.Proxies(t, abroad)
	witness(t, home, node)
	for _, name := range []string{"first", "second"} {
		bed.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: abroad, Name: name}})
	}
	request := traffic.Request{URL: "web." + home + ":9090", Protocol: traffic.TCP, Body: "a line"}
	identity := func(account string) string { return "spiffe://cluster.local/ns/" + abroad + "/sa/" + account }

	first := bed.Run(t, abroad, testbed.App{Name: "first", Version: "none", Node: node, ServiceAccount: "first"})[0]
	eventually(t, first, request, func(a *traffic.Answer) string {
		if a.Echo == nil || a.Echo.Caller != identity("first") {
			return "want the caller " + identity("first")
		}
		return ""
	})

	second := successor(t, first, testbed.App{Name: "second", Version: "none", Node: node, ServiceAccount: "second"})
	// For some seconds the pods beside it may still send to the hardware address of the first: to make its own
	// known is up to the network plugin. What does come through must be right from the beginning.
	eventually(t, second, request, func(a *traffic.Answer) string {
		if a.Echo == nil {
			return "no success"
		}
		wantCaller(t, second, a, identity("second"))
		return ""
	})
	witnessed := 0
	for range 10 * tries {
		a := second.Send(t, request)
		if a.Echo == nil {
			t.Fatalf("no success: %s", show(&a))
		}
		wantCaller(t, second, &a, identity("second"))
		if a.Echo.Caller != "" {
			witnessed++
		}
	}
	if witnessed == 0 {
		t.Error("no connection has come to the witness")
	}
	t.Logf("%d of %d connections from %v came to the witness", witnessed, 10*tries, second.Addresses)
}

// wantCaller checks an answer: it went through proxies, and if it is the witness's, the caller is the one
// given.
func wantCaller(t *testing.T, sender *testbed.Pod, a *traffic.Answer, want string) {
	t.Helper()
	if sender.Has(a.Echo.Peer) || a.Echo.Caller != "" && a.Echo.Caller != want {
		t.Fatalf("the caller is %q, want %s: %s", a.Echo.Caller, want, show(a))
	}
}

// successor ends a pod and starts another with the same addresses on the same node.
func successor(t *testing.T, before *testbed.Pod, app testbed.App) *testbed.Pod {
	t.Helper()
	end := func(p *testbed.Pod) {
		if err := bed.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}); err != nil {
			t.Fatal(err)
		}
		gone(t, p)
	}
	end(before)
	const attempts = 5
	for range attempts {
		if err := testbed.ReuseAddresses(before.Node, before.Addresses); err != nil {
			t.Fatal(err)
		}
		after := bed.Run(t, before.Namespace, app)[0]
		if slices.Equal(after.Addresses, before.Addresses) {
			return after
		}
		// Another pod was quicker, and has the address for as long as it lives or for a moment.
		t.Logf("%v instead of %v", after.Addresses, before.Addresses)
		end(after)
	}
	t.Fatalf("no pod got the addresses %v", before.Addresses)
	return nil
}

// witness runs a pod that takes connections of the hop as the proxies of its namespace do, and answers with
// the caller's identity.
func witness(t *testing.T, namespace, node string) {
	t.Helper()
	const folder = "/identity"
	pod := bed.Object(namespace, testbed.App{Name: "witness", Version: "witness", Node: node, Labels: map[string]string{meshv1alpha1.ComponentLabel: "proxy"}},
		"serve", "-hop", folder)
	pod.Spec.Volumes = []corev1.Volume{{Name: "identity", VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: "weft-identity-" + meshv1alpha1.ProxyName},
	}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "identity", MountPath: folder, ReadOnly: true}}
	bed.Create(t, pod)
}
