//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestMigration gives the pods of a namespace proxies of their own and takes them away again, while they call each other
// and another namespace calls them: the label of the namespace is changed and the workloads are restarted. Meanwhile some
// have one and some have none. No request fails.
func TestMigration(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	namespace := shared(t, bed.Namespace(t, true)) // where it comes from
	server := bed.Deploy(t, namespace, testbed.App{Name: "server", Version: "v1"}, 2)
	bed.Create(t, testbed.NewService(namespace, "web", onlyV1))
	bed.Proxies(t, namespace)
	service := "web." + namespace
	from := func(client *testbed.Pod) []*testbed.Load {
		captured(t, client, traffic.Request{URL: "http://" + service})
		captured(t, client, traffic.Request{URL: fmt.Sprintf("%s:%d", service, testbed.PortGRPC), Protocol: traffic.GRPC})
		captured(t, client, traffic.Request{URL: fmt.Sprintf("%s:%d", service, testbed.PortLines), Protocol: traffic.TCP, Body: "a line"})
		return everyWay(t, client, service)
	}
	client := bed.Run(t, namespace, testbed.App{Name: "client-0"})[0]
	abroad, inside := from(w.abroadClient), from(client)
	for n, where := range []meshv1alpha1.Placement{meshv1alpha1.PlacementSidecar, meshv1alpha1.PlacementNamespace} {
		beside := where == meshv1alpha1.PlacementSidecar
		wantPlaced := func(pods ...*testbed.Pod) {
			for _, p := range pods {
				if p.Beside != beside {
					t.Errorf("pod %s has a proxy of its own: %v, in placement %s", p.Name, p.Beside, where)
				}
			}
		}
		place(t, namespace, where)
		bed.Restart(t, server)
		wantPlaced(bed.RolledOut(t, server)...)
		more(slices.Concat(abroad, inside))

		// A load ends with its pod, and so do its figures: the next pod sends before the last one ends, as in a rollout.
		next := bed.Run(t, namespace, testbed.App{Name: fmt.Sprintf("client-%d", n+1)})[0]
		wantPlaced(next)
		following := from(next)
		more(slices.Concat(abroad, following))
		unharmed(t, inside)
		if err := bed.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: client.Name}}); err != nil {
			t.Fatal(err)
		}
		client, inside = next, following
	}
	more(slices.Concat(abroad, inside))
	unharmed(t, slices.Concat(abroad, inside))
}

// TestWire looks at what the two nodes send to each other during requests. Where pods have proxies of their own none of it
// can be read; where they share them it can, between a proxy and the pod on the other node, so that this test could fail.
func TestWire(t *testing.T) {
	t.Parallel()
	for _, where := range []meshv1alpha1.Placement{meshv1alpha1.PlacementSidecar, meshv1alpha1.PlacementNamespace} {
		t.Run(string(where), func(t *testing.T) {
			t.Parallel()
			namespace := bed.Namespace(t, true)
			place(t, namespace, where)
			pods := bed.Run(t, namespace, testbed.App{Name: "server", Version: "v1", Node: "node2"}, testbed.App{Name: "client", Node: "node1"})
			server, client := pods[0], pods[1]
			bed.Create(t, testbed.NewService(namespace, "web", onlyV1))
			for _, request := range secrets("a-probe") {
				request.URL = fmt.Sprintf(request.URL, "web")
				captured(t, client, request)
			}
			// What came quicker than it could be looked at may have been anything.
			testbed.Eventually(t, func(context.Context) error {
				found := sendSecrets(t, client, "web")
				if found.Lost > 0 {
					return fmt.Errorf("%d packets came too quickly", found.Lost)
				}
				judgeWire(t, where, server, found)
				return nil
			})
		})
	}
}

// secrets are requests that show a marker in each place where one could be read.
func secrets(marker string) []traffic.Request {
	return []traffic.Request{
		{URL: "http://%s/" + marker},
		{URL: "http://%s/", Header: map[string]string{"X-Marker": marker}},
		{URL: "http://%s/", Method: "POST", Body: marker},
		{URL: "http://%s/", Method: "POST", Body: marker, Protocol: traffic.H2C},
		{URL: fmt.Sprintf("%%s:%d", testbed.PortGRPC), Protocol: traffic.GRPC, Body: marker},
		{URL: fmt.Sprintf("%%s:%d", testbed.PortLines), Protocol: traffic.TCP, Body: marker},
	}
}

// sendSecrets sends each of them several times, and returns what was on the wire.
func sendSecrets(t *testing.T, client *testbed.Pod, service string) testbed.WireFound {
	t.Helper()
	marker := "marker" + rand.String(20)
	nodes := testbed.ListenOnWire(t, marker)
	for _, request := range secrets(marker) {
		request.URL = fmt.Sprintf(request.URL, service)
		always(t, client, request, from("v1"))
	}
	return nodes.Stop(t)
}

// judgeWire holds what was on the wire to what may be.
func judgeWire(t *testing.T, where meshv1alpha1.Placement, server *testbed.Pod, found testbed.WireFound) {
	t.Helper()
	encrypted, plain := 0, 0
	for at, n := range found.Segments {
		switch {
		case !server.Has(at.Addr().String()):
		case at.Port() == wire.PortHop:
			encrypted += n
		default:
			plain += n
		}
	}
	t.Logf("%d segments from and to the server's proxy, %d past it, %d of all with the marker", encrypted, plain, len(found.Marked))
	if where == meshv1alpha1.PlacementSidecar && (len(found.Marked) > 0 || encrypted == 0) {
		t.Errorf("%d segments were encrypted, and these could be read: %v", encrypted, found.Marked)
	}
	if where == meshv1alpha1.PlacementNamespace && len(found.Marked) == 0 {
		t.Error("nothing could be read between proxies and pods, so that this test proves nothing")
	}
}
