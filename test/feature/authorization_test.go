package feature_test

import (
	"bufio"
	"testing"
)

// TestAuthorizationOfTCP: connections of opaque bytes are decided by who opens them and by their port. Rules about
// requests allow none of them, and deny all that might be one.
func TestAuthorizationOfTCP(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: data, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web, sectionName: tcp-data}]
  action: Allow
  rules:
  - from: [{namespaces: [bank]}]
    to: [{ports: [5432]}]
  - from: [{namespaces: [shop]}]
    to: [{methods: [GET]}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: data, namespace: bank}
spec:
  targetRefs: [{group: "", kind: Service, name: ledger, sectionName: tcp-data}]
  action: Deny
  rules:
  - from: [{namespaces: [shop]}]
    to: [{headers: [{name: X-Role, type: Exact, value: admin}]}]
`))
	for name, tc := range map[string]struct {
		from, to, want string
	}{
		"by identity and port over the hop": {"bank", "web.shop:5432", "web"},
		"allowed as a request alone":        {"shop", "web:5432", ""},
		"denied as what might be a request": {"shop", "ledger.bank:5432", ""},
		"of a caller who is not denied":     {"bank", "ledger:5432", "ledger"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, m, tc.from, tc.to)
			from := bufio.NewReader(c)
			if tc.want != "" {
				exchange(t, c, from, tc.want)
				return
			}
			if got, err := from.ReadString('\n'); err == nil {
				t.Errorf("greeted with %q", got)
			}
		})
	}
}
