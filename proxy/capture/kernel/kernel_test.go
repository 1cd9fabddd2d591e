// The tests of this package need root: they make network namespaces of their own, without names, and
// talk to the kernel of this machine. The namespaces end with the test process, however it ends.
package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of proxy/capture/kernel make network namespaces and need root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// deadline bounds every wait; nothing here takes longer than a fraction of it.
const deadline = 20 * time.Second

// lab is a client pod and two proxy pods on one network.
type lab struct {
	client, proxy *kernel.Netns
	family        labFamily
}

type labFamily struct {
	client, foreign, proxy, second netip.Addr
	vip                            netip.AddrPort
	bits                           int
}

var labFamilies = map[string]labFamily{
	"IPv4": {
		client: netip.MustParseAddr("192.0.2.1"), foreign: netip.MustParseAddr("192.0.2.9"),
		proxy: netip.MustParseAddr("192.0.2.2"), second: netip.MustParseAddr("192.0.2.3"),
		vip: netip.MustParseAddrPort("198.51.100.10:80"), bits: 24,
	},
	"IPv6": {
		client: netip.MustParseAddr("2001:db8::1"), foreign: netip.MustParseAddr("2001:db8::9"),
		proxy: netip.MustParseAddr("2001:db8::2"), second: netip.MustParseAddr("2001:db8::3"),
		vip: netip.MustParseAddrPort("[2001:db8:1::10]:80"), bits: 64,
	},
}

func newLab(t *testing.T, f labFamily) *lab {
	t.Helper()
	l := &lab{client: newNetns(t), proxy: newNetns(t), family: f}
	prefixes := func(addresses ...netip.Addr) (out []netip.Prefix) {
		for _, address := range addresses {
			out = append(out, netip.PrefixFrom(address, f.bits))
		}
		return out
	}
	must(t, kernel.Join(l.client, l.proxy, prefixes(f.client, f.foreign), prefixes(f.proxy, f.second)))
	must(t, l.client.Route(f.proxy))
	return l
}

func newNetns(t *testing.T) *kernel.Netns {
	t.Helper()
	n, err := kernel.New()
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tables builds what a pod of an enrolled namespace gets.
func (l *lab) tables(number uint16, proxies ...netip.Addr) rules.Tables {
	capture := &wire.Capture{Ports: []wire.CapturedPort{{Address: l.family.vip.Addr(), Port: l.family.vip.Port(), Number: number}}}
	for _, address := range proxies {
		capture.Proxies = append(capture.Proxies, wire.Proxy{Addresses: []netip.Addr{address}})
	}
	return rules.Build(rules.Pod{Capture: capture}, "", func(netip.Addr) bool { return true })
}

// listen opens the listener for captured connections in the proxy's namespace.
func (l *lab) listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	var listener net.Listener
	must(t, l.proxy.Do(func() (err error) {
		// The original destination can be read from a plain TCP socket only.
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		listener, err = config.Listen(t.Context(), "tcp", address)
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	return listener.(*net.TCPListener)
}

// dial connects from the client's namespace.
func (l *lab) dial(from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := l.client.Do(func() (err error) {
		dialer := net.Dialer{Timeout: deadline, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err = dialer.DialContext(context.Background(), "tcp", to.String())
		return err
	})
	return conn, err
}

// accept waits for one connection and returns where it was meant to go.
func accept(t *testing.T, listener *net.TCPListener) (net.Conn, netip.AddrPort) {
	t.Helper()
	must(t, listener.SetDeadline(time.Now().Add(deadline)))
	conn, err := listener.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	original, err := kernel.OriginalDestination(conn)
	must(t, err)
	return conn, original
}

func TestCapture(t *testing.T) {
	for name, f := range labFamilies {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, f)
			must(t, l.proxy.Apply(rules.Build(rules.Pod{Proxy: true}, "", nil)))
			must(t, l.client.Apply(l.tables(30001, f.proxy)))
			listener := l.listen(t, fmt.Sprintf(":%d", wire.PortCaptured))

			conn, err := l.dial(f.client, f.vip)
			must(t, err)
			defer func() { _ = conn.Close() }()
			accepted, original := accept(t, listener)
			if want := netip.AddrPortFrom(f.proxy, 30001); original != want {
				t.Errorf("original destination %v, want %v", original, want)
			}
			if got := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got.Unmap() != f.client {
				t.Errorf("caller %v, want %v", got, f.client)
			}
		})
	}
}
