package feature_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// balanced is a Service of three pods in each of two namespaces, under one policy.
const balanced = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  loadBalancing: BALANCING
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: ledger, namespace: bank}
spec:
  targetRefs: [{group: "", kind: Service, name: ledger}]
  loadBalancing: BALANCING
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  trafficDistribution: DISTRIBUTION
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec:
  clusterIP: 10.96.1.1
  trafficDistribution: DISTRIBUTION
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.0.1], zone: zone-1, nodeName: node-1, targetRef: {kind: Pod, name: web}}
- {addresses: [10.244.0.12], zone: zone-1, nodeName: node-2, targetRef: {kind: Pod, name: web-b}}
- {addresses: [10.244.0.13], zone: zone-2, nodeName: node-3, targetRef: {kind: Pod, name: web-c}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ledger, namespace: bank, labels: {kubernetes.io/service-name: ledger}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.1], zone: zone-1, nodeName: node-1, targetRef: {kind: Pod, name: ledger}}
- {addresses: [10.244.1.12], zone: zone-1, nodeName: node-2, targetRef: {kind: Pod, name: ledger-b}}
- {addresses: [10.244.1.13], zone: zone-2, nodeName: node-3, targetRef: {kind: Pod, name: ledger-c}}
`

// TestLoadBalancing chooses among the pods of a Service in the client's own namespace, and of one in
// another, where a proxy of that namespace chooses.
func TestLoadBalancing(t *testing.T) {
	m := start(t)
	client := m.HTTP("shop")
	services := map[string]string{"own namespace": "http://web/", "over the hop": "http://ledger.bank/"}
	each := func(t *testing.T, balancing, distribution string, check func(t *testing.T, url string)) {
		t.Helper()
		apply(t, m, with(t, strings.NewReplacer("BALANCING", balancing, "DISTRIBUTION", distribution).Replace(balanced)))
		for name, url := range services {
			t.Run(name, func(t *testing.T) { check(t, url) })
		}
	}
	t.Run("round robin", func(t *testing.T) {
		each(t, "{algorithm: RoundRobin}", "null", func(t *testing.T, url string) {
			count := map[string]int{}
			for range 30 {
				count[must(t, client, get(t, url)).echo.Pod]++
			}
			if got := slices.Collect(maps.Values(count)); len(got) != 3 || slices.Min(got) != 10 || slices.Max(got) != 10 {
				t.Errorf("30 requests were answered by %v", count)
			}
		})
	})
	t.Run("consistent hash of a header", func(t *testing.T) {
		hash := "{algorithm: ConsistentHash, consistentHash: {type: Header, name: x-user}}"
		each(t, hash, "null", func(t *testing.T, url string) {
			pods := map[string]bool{}
			for user := range 20 {
				first := ""
				for range 5 {
					req := get(t, url)
					req.Header.Set("X-User", fmt.Sprint("user-", user))
					pod := must(t, client, req).echo.Pod
					if first == "" {
						first = pod
					}
					if pod != first {
						t.Fatalf("user %d was answered by %s and %s", user, first, pod)
					}
				}
				pods[first] = true
			}
			if len(pods) < 2 {
				t.Errorf("20 users were answered by %v alone", pods)
			}
		})
	})
	for distribution, want := range map[string]int{"PreferClose": 2, "PreferSameZone": 2, "PreferSameNode": 1} {
		t.Run(distribution, func(t *testing.T) {
			each(t, "{algorithm: RoundRobin}", distribution, func(t *testing.T, url string) {
				pods := map[string]bool{}
				for range 12 {
					pods[must(t, client, get(t, url)).echo.Pod] = true
				}
				if len(pods) != want {
					t.Errorf("answered by %v, want %d pods near the client", pods, want)
				}
			})
		})
	}
}
