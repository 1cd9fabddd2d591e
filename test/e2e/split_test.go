//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// address returns where one of a Service's cluster IPs listens.
func address(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }

// TestSplit sends to both cluster IPs of a Service and counts who answers.
func TestSplit(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	all, _, _ := w.services(t, "split")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: split}
spec:
  parentRefs: [{group: "", kind: Service, name: split, port: 80}]
  rules:
  - backendRefs: [{name: split-v1, port: 80, weight: 90}, {name: split-v2, port: 80, weight: 10}]
`))
	bed.Program(t, testbed.GRPCRoute(t, w.home, `
metadata: {name: split}
spec:
  parentRefs: [{group: "", kind: Service, name: split, port: 9000}]
  rules:
  - backendRefs: [{name: split-v1, port: 9000, weight: 90}, {name: split-v2, port: 9000, weight: 10}]
`))
	for i, family := range []string{"IPv4", "IPv6"} {
		ip := all.Spec.ClusterIPs[i]
		http := address(ip, testbed.PortHTTP)
		tests := map[string]traffic.Request{
			"HTTP": {URL: "http://" + http},
			"H2C":  {URL: "http://" + http, Protocol: traffic.H2C},
			"GRPC": {URL: address(ip, testbed.PortGRPC), Protocol: traffic.GRPC},
		}
		for name, request := range tests {
			t.Run(fmt.Sprintf("%s over %s", name, family), func(t *testing.T) {
				t.Parallel()
				captured(t, w.client, request)
				load := w.client.Load(t, traffic.Load{Requests: []traffic.Request{request}, Workers: 4})
				load.More(1000)
				p := load.Stop()
				counts := map[string]int{}
				for _, s := range p.Samples {
					counts[s.Version+s.Failure]++
				}
				// Of 1,000 requests, 900 +- 50 are more than five standard deviations.
				share := float64(counts["v1"]) / float64(p.Sent)
				if p.Failed > 0 || share < 0.85 || share > 0.95 || counts["v1"]+counts["v2"] != p.Sent {
					t.Errorf("of %d requests %d failed and the answers are from %v, want 90/10", p.Sent, p.Failed, counts)
				}
			})
		}
	}
}
