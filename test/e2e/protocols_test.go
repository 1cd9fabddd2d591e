//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestProtocols sends everything but plain requests through the mesh, from a client in the namespace of
// the Service and, over the hop, from one elsewhere, over both address families.
func TestProtocols(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	service := testbed.NewService(w.home, "protocols", onlyV1)
	bed.Create(t, service)
	proxies := bed.ProxiesOf(t, w.v1)
	for _, client := range []*testbed.Pod{w.client, w.abroadClient} {
		where := "at home"
		if client == w.abroadClient {
			where = "from abroad"
		}
		for _, ip := range service.Spec.ClusterIPs {
			family := "IPv4"
			if netip.MustParseAddr(ip).Is6() {
				family = "IPv6"
			}
			tests := map[string]traffic.Request{
				"TCP":                          {Protocol: traffic.TCP, URL: address(ip, testbed.PortLines), Body: "a line"},
				"TCP, the server speaks first": {Protocol: traffic.TCP, URL: address(ip, testbed.PortServerFirst), ServerFirst: true},
				"WebSocket":                    {Protocol: traffic.WebSocket, URL: "http://" + address(ip, testbed.PortHTTP) + "/websocket", Body: "a message"},
				"gRPC":                         {Protocol: traffic.GRPC, URL: address(ip, testbed.PortGRPC), Body: "a call"},
				"HTTP/2":                       {Protocol: traffic.H2C, URL: "http://" + address(ip, testbed.PortHTTP), Method: "POST", Body: "a body"},
			}
			for name, request := range tests {
				t.Run(fmt.Sprintf("%s %s over %s", name, where, family), func(t *testing.T) {
					t.Parallel()
					// A stall would be no slow answer but none.
					request.Timeout = 5 * time.Second
					expect(t, client, request, func(a *traffic.Answer) string {
						if wrong := from("v1")(a); wrong != "" {
							return wrong
						}
						if a.Echo.Body != request.Body {
							return fmt.Sprintf("the backend got %q", a.Echo.Body)
						}
						if !slices.ContainsFunc(proxies, func(p *testbed.Pod) bool { return p.Has(a.Echo.Peer) }) {
							return "it does not come from a proxy of the Service's pod"
						}
						return ""
					})
				})
			}
		}
	}
}

// TestLongLived exchanges many messages on one connection.
func TestLongLived(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	bed.Create(t, testbed.NewService(w.home, "longlived", onlyV1))
	for name, request := range map[string]traffic.Request{
		"TCP":       {Protocol: traffic.TCP, URL: "longlived." + w.home + ":9090", Body: strings.Repeat("line", 500)},
		"WebSocket": {Protocol: traffic.WebSocket, URL: "http://longlived." + w.home + "/websocket", Body: strings.Repeat("message", 500)},
	} {
		for where, client := range map[string]*testbed.Pod{"at home": w.client, "from abroad": w.abroadClient} {
			t.Run(name+" "+where, func(t *testing.T) {
				t.Parallel()
				captured(t, client, request)
				load := client.Load(t, traffic.Load{Requests: []traffic.Request{request}, Workers: 2, Rate: 200})
				load.More(500)
				for _, s := range load.Stop().Samples {
					if s.Failure != "" || s.Version != "v1" {
						t.Fatalf("an exchange failed: %+v", s)
					}
				}
			})
		}
	}
}

// TestServerSentEvents: what a server sends comes at once, not when it is complete.
func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	bed.Create(t, testbed.NewService(w.home, "events", onlyV1))
	for where, client := range map[string]*testbed.Pod{"at home": w.client, "from abroad": w.abroadClient} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			captured(t, client, traffic.Request{URL: "http://events." + w.home})
			for _, protocol := range []traffic.Protocol{traffic.HTTP1, traffic.H2C} {
				a := client.Send(t, traffic.Request{URL: "http://events." + w.home + "/events", Protocol: protocol})
				if a.Status != 200 || strings.Count(a.Body, "data: v1") != 3 || a.Get("Content-Type") != "text/event-stream" {
					t.Fatalf("%s: want three events; the answer: %s", protocol, show(&a))
				}
				// The server takes 900 ms.
				if ahead := a.Ended.Sub(a.First); ahead < 250*time.Millisecond {
					t.Errorf("%s: the first event came %s before the end of the last, want it at once", protocol, ahead)
				}
			}
		})
	}
}
