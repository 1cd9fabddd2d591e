//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestConsumerRoute: a route in a client's namespace changes what its own clients see of a Service
// elsewhere, hides the producer's routes from them, and concerns nobody else (GEP-1294).
func TestConsumerRoute(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "consumer")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: consumer}
spec:
  parentRefs: [{group: "", kind: Service, name: consumer, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /produced}}]
    backendRefs: [{name: consumer-v1, port: 80}]
`))
	url := "http://consumer." + w.home
	produced, consumed := traffic.Request{URL: url + "/produced"}, traffic.Request{URL: url + "/consumed"}
	for _, client := range []*testbed.Pod{w.client, w.abroadClient} {
		expect(t, client, produced, from("v1"))
		expect(t, client, consumed, local(404, "no_rule_matched"))
	}

	route := testbed.HTTPRoute(t, w.abroad, fmt.Sprintf(`
metadata: {name: consumer}
spec:
  parentRefs: [{group: "", kind: Service, namespace: %[1]s, name: consumer, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /consumed}}]
    backendRefs: [{namespace: %[1]s, name: consumer-v2, port: 80}]
`, w.home))
	bed.Program(t, route)
	expect(t, w.abroadClient, consumed, from("v2"))
	expect(t, w.abroadClient, produced, local(404, "no_rule_matched"))
	expect(t, w.client, produced, from("v1"))
	expect(t, w.client, consumed, local(404, "no_rule_matched"))

	if err := bed.Client.Delete(t.Context(), route); err != nil {
		t.Fatal(err)
	}
	eventually(t, w.abroadClient, produced, from("v1"))
	expect(t, w.abroadClient, consumed, local(404, "no_rule_matched"))
}

// TestOutside: from an enrolled namespace, a route can be put on a Service outside the mesh for one's own
// clients, and send to Services outside it.
func TestOutside(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	outside := bed.Namespace(t, false)
	pods := bed.Run(t, outside, testbed.App{Name: "one", Version: "v1"}, testbed.App{Name: "two", Version: "v2"})
	bed.Create(t, testbed.NewService(outside, "web", onlyV1), testbed.NewService(outside, "other", onlyV2))
	request := traffic.Request{URL: "http://web." + outside}
	a := w.client.Send(t, request)
	if wrong := from("v1")(&a); wrong != "" || !w.client.Has(a.Echo.Peer) {
		t.Fatalf("without a route: %s, or captured: %s", wrong, show(&a))
	}
	route := testbed.HTTPRoute(t, w.home, fmt.Sprintf(`
metadata: {name: outside}
spec:
  parentRefs: [{group: "", kind: Service, namespace: %[1]s, name: web, port: 80}]
  rules:
  - backendRefs: [{namespace: %[1]s, name: other, port: 80}]
`, outside))
	bed.Program(t, route)
	// The peer does not tell: a proxy of the client's own has its address, and dials such a pod itself.
	eventually(t, w.client, request, from("v2"))
	always(t, w.client, request, from("v2"))
	// A client outside is nobody's business.
	a = pods[1].Send(t, request)
	if wrong := from("v1")(&a); wrong != "" || !pods[1].Has(a.Echo.Peer) {
		t.Errorf("from outside: %s, or captured: %s", wrong, show(&a))
	}
	if err := bed.Client.Delete(t.Context(), route); err != nil {
		t.Fatal(err)
	}
	eventually(t, w.client, request, from("v1"))
}
