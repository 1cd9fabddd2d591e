//go:build e2e

package lifecycle

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// vault is a namespace with a Service whose callers a MeshAuthorization limits, which proxies of the release before
// know nothing of.
type vault struct {
	namespace     string
	clients       []*testbed.Pod
	authorization *meshv1alpha1.MeshAuthorization
}

// newVault makes one that lets everybody in, with a client of its own and one of another namespace.
func newVault(t *testing.T, bed *testbed.Bed, abroad *testbed.Pod) *vault {
	t.Helper()
	v := &vault{namespace: bed.Namespace(t, true)}
	pods := bed.Run(t, v.namespace,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: map[string]string{"role": "backend"}}, testbed.App{Name: "client", Node: "node2"})
	v.clients = []*testbed.Pod{pods[1], abroad}
	bed.Create(t, testbed.NewService(v.namespace, "vault", map[string]string{"role": "backend"}))
	bed.Proxies(t, v.namespace)
	v.await(t, "/", served)
	return v
}

// await waits until nothing is wrong with what either client gets for a path, and it stays so for some requests more.
func (v *vault) await(t *testing.T, path string, wrong func(*traffic.Answer) error) {
	t.Helper()
	request := traffic.Request{URL: "http://vault." + v.namespace + path}
	for _, c := range v.clients {
		testbed.Eventually(t, func(ctx context.Context) error {
			for range 8 {
				a, err := c.Try(ctx, request)
				if err == nil {
					err = wrong(&a)
				}
				if err != nil {
					return fmt.Errorf("%s/%s asks for %s: %w", c.Namespace, c.Name, path, err)
				}
			}
			return nil
		})
	}
}

func served(a *traffic.Answer) error {
	if a.Echo == nil || a.Status != 200 {
		return fmt.Errorf("status %d, %s", a.Status, a.Error)
	}
	return nil
}

// refused is an answer of nobody, or of a proxy that has found nobody to ask.
func refused(a *traffic.Answer) error {
	if a.Echo != nil || a.Error == "" && a.Status != 503 {
		return fmt.Errorf("status %d of %+v", a.Status, a.Echo)
	}
	return nil
}

func denied(a *traffic.Answer) error {
	if a.Echo != nil || a.Status != 403 {
		return fmt.Errorf("status %d of %+v, %s", a.Status, a.Echo, a.Error)
	}
	return nil
}

// cutOff has the vault refuse a path while all its proxies are of the release before. They would let it pass, so nobody
// gets to them any more, and Mesh and MeshAuthorization say so.
func (v *vault) cutOff(t *testing.T, bed *testbed.Bed) {
	t.Helper()
	v.authorization = testbed.MeshAuthorization(t, v.namespace, `
metadata: {name: closed}
spec:
  targetRefs: [{group: "", kind: Service, name: vault}]
  action: Deny
  rules: [{to: [{paths: [{type: Prefix, value: /gold}]}]}]
`)
	bed.Create(t, v.authorization)
	testbed.Await(t, bed, v.authorization, func(a *meshv1alpha1.MeshAuthorization) string {
		c := meta.FindStatusCondition(a.Status.Conditions, "Enforced")
		if c != nil && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "earlier release") {
			return ""
		}
		return "it is not said who does not enforce it: " + testbed.Describe(a.Status.Conditions)
	})
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		if c := meta.FindStatusCondition(m.Status.Conditions, meshv1alpha1.MeshProxiesCurrent); c != nil && strings.Contains(c.Message, v.namespace) {
			return ""
		}
		return "the namespace is not named: " + testbed.Describe(m.Status.Conditions)
	})
	v.await(t, "/gold", refused)
	v.await(t, "/", refused)
}

// open waits until proxies that know the policy serve the vault and refuse the path alone.
func (v *vault) open(t *testing.T, bed *testbed.Bed) {
	t.Helper()
	testbed.Await(t, bed, v.authorization, func(a *meshv1alpha1.MeshAuthorization) string {
		if meta.IsStatusConditionTrue(a.Status.Conditions, "Enforced") {
			return ""
		}
		return testbed.Describe(a.Status.Conditions)
	})
	v.await(t, "/gold", denied)
	v.await(t, "/", served)
	// The release before takes away what it does not know; whoever goes back does that first.
	if err := bed.Client.Delete(t.Context(), v.authorization); err != nil {
		t.Fatal(err)
	}
}
