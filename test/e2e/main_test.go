//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// bed is set by TestMain.
var bed *testbed.Bed

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	if bed, err = testbed.Connect(ctx, "../.."); err == nil {
		err = bed.WaitReady(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := m.Run()
	ctx, cancel = context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := bed.Clear(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: clear:", err)
		return 1
	}
	return code
}

// town is what small tests share: two enrolled namespaces with backends and clients. They make Services
// and routes of their own in them and nothing else. It is for parallel tests alone, which run after all
// others: these stop nodes, and its pods do not start again.
type town struct {
	// home has backends v1 and v2 and a client, on both nodes.
	home           string
	v1, v2, client *testbed.Pod
	// abroad has a backend v1 and a client.
	abroad                 string
	abroadV1, abroadClient *testbed.Pod
}

var openTown = sync.OnceValues(func() (*town, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var w town
	var err error
	if w.home, err = bed.MakeNamespace(ctx, "home", true); err != nil {
		return nil, err
	}
	if w.abroad, err = bed.MakeNamespace(ctx, "abroad", true); err != nil {
		return nil, err
	}
	backend := map[string]string{"role": "backend"}
	pods, err := bed.Start(ctx, w.home,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: backend},
		testbed.App{Name: "v2", Version: "v2", Node: "node2", Labels: backend},
		testbed.App{Name: "client", Node: "node1"})
	if err != nil {
		return nil, err
	}
	w.v1, w.v2, w.client = pods[0], pods[1], pods[2]
	pods, err = bed.Start(ctx, w.abroad,
		testbed.App{Name: "v1", Version: "abroad", Node: "node1", Labels: backend},
		testbed.App{Name: "client", Node: "node2"})
	if err != nil {
		return nil, err
	}
	w.abroadV1, w.abroadClient = pods[0], pods[1]
	return &w, nil
})

// inTown returns the town with all its proxies ready.
func inTown(t *testing.T) *town {
	t.Helper()
	w, err := openTown()
	if err != nil {
		t.Fatal(err)
	}
	bed.Proxies(t, w.home)
	bed.Proxies(t, w.abroad)
	return w
}

var (
	allVersions = map[string]string{"role": "backend"}
	onlyV1      = map[string]string{"version": "v1"}
	onlyV2      = map[string]string{"version": "v2"}
)

// services creates Services of both versions and of either, named after a test: "web", "web-v1", "web-v2".
func (w *town) services(t *testing.T, name string) (all, v1, v2 *corev1.Service) {
	t.Helper()
	all = testbed.NewService(w.home, name, allVersions)
	v1 = testbed.NewService(w.home, name+"-v1", onlyV1)
	v2 = testbed.NewService(w.home, name+"-v2", onlyV2)
	bed.Create(t, all, v1, v2)
	seen(t, v2)
	return all, v1, v2
}

// seen waits until the operator knows a Service and those made before it: it learns of Services and of
// routes in two streams, so that a route made right after a Service may be looked at first.
func seen(t *testing.T, service *corev1.Service) {
	t.Helper()
	probe := testbed.HTTPRoute(t, service.Namespace, fmt.Sprintf(`
metadata: {name: seen-%[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s}]
  rules:
  - backendRefs: [{name: %[1]s, port: 80}]
`, service.Name))
	bed.Create(t, probe)
	testbed.Await(t, bed, probe, func(route *gwv1.HTTPRoute) string {
		for _, p := range testbed.Parents(route) {
			if meta.IsStatusConditionTrue(p.Conditions, string(gwv1.RouteConditionResolvedRefs)) {
				return ""
			}
		}
		return "the operator does not know the Service"
	})
	if err := bed.Client.Delete(t.Context(), probe); err != nil {
		t.Fatal(err)
	}
}

// captured waits until what a client sends to a Service goes through proxies: an answer comes from a
// proxy itself, which has no echo, or from a backend that sees a proxy as its peer.
func captured(t *testing.T, client *testbed.Pod, r traffic.Request) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		a, err := client.Try(ctx, r)
		switch {
		case err != nil:
			return err
		case a.Error != "":
			return fmt.Errorf("%s: %s", r.URL, a.Error)
		case a.Echo != nil && client.Has(a.Echo.Peer):
			return fmt.Errorf("%s is not captured: status %d from %+v", r.URL, a.Status, *a.Echo)
		}
		return nil
	})
}
