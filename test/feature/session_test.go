package feature_test

import (
	"net/http"
	"strings"
	"testing"
)

const sessions = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: ledger, namespace: bank}
spec:
  targetRefs: [{group: "", kind: Service, name: ledger}]
  sessionPersistence: {absoluteTimeout: 1h, cookie: {lifetimeType: Permanent}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ledger, namespace: bank, labels: {kubernetes.io/service-name: ledger}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.1], targetRef: {kind: Pod, name: ledger}}
- {addresses: [10.244.1.2], targetRef: {kind: Pod, name: ledger-2}}
- {addresses: [10.244.1.3], targetRef: {kind: Pod, name: ledger-3}}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]
  sessionPersistence: {type: Header, header: {name: X-Stay}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - backendRefs:
    - {name: web-v1, port: 80, weight: WEIGHT}
    - {name: web-v2, port: 80, weight: 1}
`

// TestSessions lets clients come back with what they were given.
func TestSessions(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, strings.ReplaceAll(sessions, "WEIGHT", "1")))
	client := m.HTTP("shop")
	ask := func(t *testing.T, url string, header http.Header) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		a, err := do(client, req)
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("answer %d %s, %v", a.status, a.header.Get("weft-reason"), err)
		}
		return a
	}
	t.Run("of a Service over the hop", func(t *testing.T) {
		seen := map[string]bool{}
		for range 60 {
			first := ask(t, "http://ledger.bank/", nil)
			cookie, err := http.ParseSetCookie(headerValues(first.header, "set-cookie")[0])
			if err != nil || cookie.MaxAge != 3600 || !cookie.HttpOnly || strings.Contains(cookie.Value, "10.244") {
				t.Fatalf("cookie %v, %v", cookie, err)
			}
			seen[first.echo.Pod] = true
			again := ask(t, "http://ledger.bank/", http.Header{"Cookie": {"other=1; " + cookie.Name + "=" + cookie.Value}})
			if again.echo.Pod != first.echo.Pod || len(headerValues(again.header, "set-cookie")) > 0 {
				t.Fatalf("answered by %s after %s, with %v", again.echo.Pod, first.echo.Pod, again.header)
			}
		}
		if len(seen) != 3 {
			t.Errorf("new clients were answered by %v", seen)
		}
	})
	t.Run("of a route, whose weights change", func(t *testing.T) {
		var first answer
		for first.echo.Pod != "web-v1" {
			first = ask(t, "http://web/", nil)
		}
		stay := http.Header{"X-Stay": {first.header.Get("X-Stay")}}
		apply(t, m, with(t, strings.ReplaceAll(sessions, "WEIGHT", "0")))
		for range 20 {
			a := ask(t, "http://web/", stay)
			if a.echo.Pod != "web-v1" || a.header.Get("X-Stay") != stay.Get("X-Stay") {
				t.Fatalf("answered by %s with %v", a.echo.Pod, a.header)
			}
		}
		if a := ask(t, "http://web/", nil); a.echo.Pod != "web-v2" {
			t.Errorf("a new client was answered by %s", a.echo.Pod)
		}
	})
}
