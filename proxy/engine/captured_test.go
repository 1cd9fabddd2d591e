package engine

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// TestCapturedConnections lets a pod call a cluster IP from a network namespace of its own, by the rules
// that node agents put there.
func TestCapturedConnections(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and needs root")
	}
	const number = 30001
	tests := map[string]struct{ client, proxy, service string }{
		"IPv4": {"192.0.2.1/24", "192.0.2.2/24", "198.51.100.10"},
		"IPv6": {"2001:db8::1/64", "2001:db8::2/64", "2001:db8:1::10"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			client, proxyAddress := netip.MustParsePrefix(tc.client), netip.MustParsePrefix(tc.proxy)
			vip := netip.MustParseAddr(tc.service)
			clientPod, proxyPod := newNetns(t), newNetns(t)
			err := kernel.Join(clientPod, proxyPod, []netip.Prefix{client}, []netip.Prefix{proxyAddress})
			if err == nil {
				err = clientPod.Route(proxyAddress.Addr())
			}
			if err == nil {
				err = proxyPod.Apply(rules.Build(rules.Pod{Proxy: true}, "", nil))
			}
			if err == nil {
				err = clientPod.Apply(rules.Build(rules.Pod{Capture: &wire.Capture{
					Ports:   []wire.CapturedPort{{Address: vip, Port: 80, Number: number}},
					Proxies: []wire.Proxy{{Addresses: []netip.Addr{proxyAddress.Addr()}}},
				}}, "", func(netip.Addr) bool { return true }))
			}
			if err != nil {
				t.Fatalf("prepare network namespaces: %v", err)
			}

			p := identified(t, patience)
			p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
			p.apply(
				resource(key("cart"), &wire.Destination{
					Namespace: namespace, Service: "cart", Port: 80, Number: number, Addresses: []netip.Addr{vip}, Protocol: wire.ProtocolHTTP,
				}),
				resource(client.Addr().String(), &wire.Workload{
					Address: client.Addr(), Pod: "client-1", UID: "u", Namespace: namespace, ServiceAccount: "client",
				}),
			)
			l := listenIn(t, proxyPod, ":"+strconv.Itoa(wire.PortCaptured))
			p.serve(func() error { return p.engine.ServeCaptured(Captured(l)) })

			c := dialIn(t, clientPod, netip.AddrPortFrom(vip, 80))
			// The Host header lies; the destination is what was connected to.
			if _, err := io.WriteString(c, lines("GET / HTTP/1.1", "Host: other.example")); err != nil {
				t.Fatalf("write: %v", err)
			}
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("read answer: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != "cart" {
				t.Errorf("answer = %q, %v, want cart", body, err)
			}
		})
	}
}

func newNetns(t *testing.T) *kernel.Netns {
	t.Helper()
	n, err := kernel.New()
	if err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("network namespace: %v", err)
		}
	})
	return n
}

func listenIn(t *testing.T, n *kernel.Netns, address string) net.Listener {
	t.Helper()
	var l net.Listener
	err := n.Do(func() (err error) {
		// The original destination can be read from a plain TCP socket only.
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		l, err = c.Listen(t.Context(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

func dialIn(t *testing.T, n *kernel.Netns, address netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	err := n.Do(func() (err error) {
		d := net.Dialer{Timeout: patience}
		c, err = d.DialContext(context.Background(), "tcp", address.String())
		return err
	})
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	return c
}
