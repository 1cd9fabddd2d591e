package feature_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"weft.dev/weft/test/feature/harness"
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
			if tc.want == "" {
				refused(t, m, tc.from, tc.to)
				return
			}
			c := dial(t, m, tc.from, tc.to)
			exchange(t, c, bufio.NewReader(c), tc.want)
		})
	}
}

// refused expects that a connection ends before a pod has greeted, which may be while it is being opened.
func refused(t *testing.T, m *harness.Mesh, from, to string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := m.Dial(ctx, from, to)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(c).ReadString('\n'); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("greeted with %q, %v", got, err)
	}
}
