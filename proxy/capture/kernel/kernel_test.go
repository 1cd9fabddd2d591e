// The tests of this package need root: they make network namespaces of their own, without names, and
// talk to the kernel of this machine. The namespaces end with the test process, however it ends.
package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
const deadline = 30 * time.Second

// lifetime stands for a longer one; a busy machine must not take half of it for one step.
const lifetime = 5 * time.Second

const number = 30001

// addressing is what the pods of a lab are called in one family.
type addressing struct {
	client, foreign, proxy, second netip.Addr
	// silent is an address that is routed and never answers.
	silent netip.Addr
	vip    netip.AddrPort
	bits   int
}

var families = map[string]addressing{
	"IPv4": {
		client: netip.MustParseAddr("192.0.2.1"), foreign: netip.MustParseAddr("192.0.2.9"),
		proxy: netip.MustParseAddr("192.0.2.2"), second: netip.MustParseAddr("192.0.2.3"),
		silent: netip.MustParseAddr("203.0.113.9"),
		vip:    netip.MustParseAddrPort("198.51.100.10:80"), bits: 24,
	},
	"IPv6": {
		client: netip.MustParseAddr("2001:db8::1"), foreign: netip.MustParseAddr("2001:db8::9"),
		proxy: netip.MustParseAddr("2001:db8::2"), second: netip.MustParseAddr("2001:db8::3"),
		silent: netip.MustParseAddr("2001:db8:2::9"),
		vip:    netip.MustParseAddrPort("[2001:db8:1::10]:80"), bits: 64,
	},
}

// lab is a client pod and another that plays proxy, second proxy and the Service behind the VIP.
type lab struct {
	addressing
	client, server *kernel.Netns
	captured       *net.TCPListener
	service        *net.TCPListener
}

// eachFamily runs a test in a lab of each family.
func eachFamily(t *testing.T, test func(*testing.T, *lab)) {
	t.Parallel()
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &lab{addressing: a, client: newNetns(t), server: newNetns(t)}
			own := []netip.Prefix{netip.PrefixFrom(a.client, a.bits), netip.PrefixFrom(a.foreign, a.bits)}
			others := []netip.Prefix{
				netip.PrefixFrom(a.proxy, a.bits), netip.PrefixFrom(a.second, a.bits),
				netip.PrefixFrom(a.vip.Addr(), a.vip.Addr().BitLen()),
			}
			must(t, kernel.Join(l.client, l.server, own, others))
			must(t, l.client.Route(a.proxy))
			must(t, l.server.Apply(rules.Build(rules.Pod{Proxy: true}, "", nil)))
			l.captured = l.listen(t, fmt.Sprintf(":%d", wire.PortCaptured))
			l.service = l.listen(t, a.vip.String())
			test(t, l)
		})
	}
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

// tables is what a pod of an enrolled namespace gets.
func (l *lab) tables(proxies ...netip.Addr) rules.Tables {
	capture := &wire.Capture{Ports: []wire.CapturedPort{{Address: l.vip.Addr(), Port: l.vip.Port(), Number: number}}}
	for _, address := range proxies {
		capture.Proxies = append(capture.Proxies, wire.Proxy{Addresses: []netip.Addr{address}})
	}
	return rules.Build(rules.Pod{Capture: capture}, "", func(netip.Addr) bool { return true })
}

// listen opens a listener in the server's namespace.
func (l *lab) listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	var listener net.Listener
	must(t, l.server.Do(func() (err error) {
		// The original destination can be read from a plain TCP socket only.
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		listener, err = config.Listen(t.Context(), "tcp", address)
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	return listener.(*net.TCPListener)
}

// dial connects from an address of the client.
func (l *lab) dial(from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	var conn net.Conn
	err := l.client.Do(func() (err error) {
		dialer := net.Dialer{Timeout: deadline, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err = dialer.DialContext(context.Background(), "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// call opens a connection to the VIP and returns both ends.
func (l *lab) call(t *testing.T, arrivesAt *net.TCPListener) (client, server *net.TCPConn) {
	t.Helper()
	client, err := l.dial(l.addressing.client, l.vip)
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client, accept(t, arrivesAt)
}

func accept(t *testing.T, listener *net.TCPListener) *net.TCPConn {
	t.Helper()
	must(t, listener.SetDeadline(time.Now().Add(deadline)))
	conn, err := listener.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// exchange sends a byte each way.
func exchange(t *testing.T, client, server *net.TCPConn) {
	t.Helper()
	for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		must(t, way[1].SetReadDeadline(time.Now().Add(deadline)))
		_, err := way[0].Write([]byte{1})
		must(t, err)
		_, err = way[1].Read(make([]byte, 1))
		must(t, err)
	}
}

// until polls a condition that the kernel brings about.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(deadline); !condition(); <-ticker.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, deadline)
		}
	}
}

func TestCapturedConnectionCarriesItsNumber(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		must(t, l.client.Apply(l.tables(l.proxy)))
		_, accepted := l.call(t, l.captured)
		original, err := kernel.OriginalDestination(accepted)
		must(t, err)
		if want := netip.AddrPortFrom(l.proxy, number); original != want {
			t.Errorf("original destination %v, want %v", original, want)
		}
		if got := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != l.addressing.client {
			t.Errorf("caller %v, want %v", got, l.addressing.client)
		}
	})
}

func TestEveryProxyGetsConnections(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		must(t, l.client.Apply(l.tables(l.proxy, l.second)))
		seen := map[netip.Addr]bool{}
		until(t, "both proxies", func() bool {
			_, accepted := l.call(t, l.captured)
			original, err := kernel.OriginalDestination(accepted)
			must(t, err)
			seen[original.Addr()] = true
			return len(seen) == 2
		})
	})
}

// What is open stays open through every kind of change, and new connections follow the change.
func TestChangesLeaveEstablishedConnectionsAlone(t *testing.T) {
	other := netip.MustParseAddrPort("198.51.100.99:1")
	changes := map[string]struct {
		change    func(*testing.T, *lab) error
		uncapture bool
	}{
		"more ports": {change: func(_ *testing.T, l *lab) error {
			tables := l.tables(l.proxy)
			tables.IPv4.Ports[other] = number + 1
			return l.client.Apply(tables)
		}},
		"another proxy": {change: func(_ *testing.T, l *lab) error { return l.client.Apply(l.tables(l.second)) }},
		"no proxy":      {uncapture: true, change: func(_ *testing.T, l *lab) error { return l.client.Apply(l.tables()) }},
		"not enrolled any more": {uncapture: true, change: func(_ *testing.T, l *lab) error {
			return l.client.Apply(rules.Tables{})
		}},
		"other chains": {change: func(_ *testing.T, l *lab) error {
			tables := l.tables(l.proxy)
			tables.IPv4.Strict = []rules.StrictPort{{Port: 1}}
			tables.IPv6.Strict = tables.IPv4.Strict
			return l.client.Apply(tables)
		}},
		"a new agent": {change: func(t *testing.T, l *lab) error {
			return reopen(t, l.client).Apply(l.tables(l.proxy))
		}},
		"a new agent that no longer captures": {uncapture: true, change: func(t *testing.T, l *lab) error {
			return reopen(t, l.client).Apply(rules.Tables{})
		}},
	}
	for name, tc := range changes {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, l *lab) {
				must(t, l.client.Apply(l.tables(l.proxy)))
				client, server := l.call(t, l.captured)
				exchange(t, client, server)
				must(t, tc.change(t, l))
				exchange(t, client, server)
				if tc.uncapture {
					l.call(t, l.service)
				} else {
					l.call(t, l.captured)
				}
				exchange(t, client, server)
			})
		})
	}
}

// While no proxy is left, a port with a route is refused and one without goes to the Service.
func TestRoutedPortsAreRefusedWithoutProxies(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		without := func(routed bool) rules.Tables {
			return rules.Build(rules.Pod{Capture: &wire.Capture{Ports: []wire.CapturedPort{
				{Address: l.vip.Addr(), Port: l.vip.Port(), Number: number, Routed: routed},
			}}}, "", nil)
		}
		must(t, l.client.Apply(l.tables(l.proxy)))
		client, server := l.call(t, l.captured)
		must(t, l.client.Apply(without(true)))
		if conn, err := l.dial(l.addressing.client, l.vip); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connection %v, error %v; want it refused", conn, err)
		}
		exchange(t, client, server)
		must(t, l.client.Apply(without(false)))
		l.call(t, l.service)
		must(t, l.client.Apply(without(true)))
		must(t, l.client.Apply(l.tables(l.proxy)))
		l.call(t, l.captured)
		exchange(t, client, server)
	})
}

// reopen gives the namespace to another agent.
func reopen(t *testing.T, n *kernel.Netns) *kernel.Netns {
	t.Helper()
	again, err := kernel.Open(n.Path())
	must(t, err)
	t.Cleanup(func() { must(t, again.Close()) })
	return again
}

// One agent after the other replaces everything while the pod connects and sends: each connection is
// captured, and no packet is lost.
func TestTakingOverUnderLoad(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		own := []netip.Addr{l.addressing.client, l.foreign}
		must(t, l.client.Guard(own))
		must(t, l.client.Apply(l.tables(l.proxy)))
		sink := l.listenUDP(t)
		const takeovers = 40
		ended := make(chan error, 1)
		go func() {
			defer close(ended)
			for range takeovers {
				again, err := kernel.Open(l.client.Path())
				if err == nil {
					err = errors.Join(again.Guard(own), again.Apply(l.tables(l.proxy)), again.Close())
				}
				if err != nil {
					ended <- err
					return
				}
			}
		}()
		var source net.Conn
		must(t, l.client.Do(func() (err error) {
			source, err = net.Dial("udp", sink.LocalAddr().String())
			return err
		}))
		defer func() { _ = source.Close() }()
		// The first packet waits for the neighbour's address, the others must not be lost.
		for i := 0; ; i++ {
			if i%100 == 0 {
				l.call(t, l.captured)
			}
			select {
			case err := <-ended:
				must(t, err)
				return
			default:
			}
			_, err := source.Write([]byte{byte(i)})
			must(t, err)
			must(t, sink.SetReadDeadline(time.Now().Add(deadline)))
			got := make([]byte, 1)
			_, _, err = sink.ReadFrom(got)
			must(t, err)
			if got[0] != byte(i) {
				t.Fatalf("packet %d came instead of %d", got[0], byte(i))
			}
		}
	})
}

// listenUDP opens a packet socket in the server's namespace.
func (l *lab) listenUDP(t *testing.T) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	must(t, l.server.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", netip.AddrPortFrom(l.proxy, 9999).String())
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestPortsComeAndGo(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		with, without := l.tables(l.proxy), l.tables(l.proxy)
		clear(without.IPv4.Ports)
		clear(without.IPv6.Ports)
		for range 3 {
			must(t, l.client.Apply(without))
			l.call(t, l.service)
			must(t, l.client.Apply(with))
			l.call(t, l.captured)
		}
	})
}

// A first packet that a dead proxy never answers is sent again by the client's kernel; after the entry
// is forgotten it reaches the proxy that lives.
func TestForgottenConnectionReachesAnotherProxy(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		must(t, l.client.Apply(l.tables(l.silent)))
		dialed := make(chan error, 1)
		go func() {
			conn, err := l.dial(l.addressing.client, l.vip)
			if err == nil {
				err = conn.Close()
			}
			dialed <- err
		}()
		until(t, "the first packet", func() bool { return l.tracked(t, l.silent) })
		must(t, l.client.Apply(l.tables(l.proxy)))
		count, err := l.client.Forget([]netip.Addr{l.silent})
		must(t, err)
		if count != 1 {
			t.Errorf("forgot %d connections, want 1", count)
		}
		accept(t, l.captured)
		must(t, <-dialed)
	})
}

func TestForgetLeavesOtherConnectionsAlone(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		must(t, l.client.Apply(l.tables(l.proxy)))
		client, server := l.call(t, l.captured)
		direct, err := l.dial(l.addressing.client, netip.AddrPortFrom(l.second, wire.PortCaptured))
		must(t, err)
		defer func() { _ = direct.Close() }()
		count, err := l.client.Forget([]netip.Addr{l.second})
		must(t, err)
		if count != 0 {
			t.Errorf("forgot %d connections, want none", count)
		}
		exchange(t, client, server)
	})
}

// tracked tells whether the client's kernel sends a connection to the address.
func (l *lab) tracked(t *testing.T, to netip.Addr) bool {
	t.Helper()
	var flows []*netlink.ConntrackFlow
	must(t, l.client.Do(func() (err error) {
		family := netlink.InetFamily(unix.AF_INET)
		if to.Is6() {
			family = unix.AF_INET6
		}
		flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		return err
	}))
	for _, flow := range flows {
		if address, _ := netip.AddrFromSlice(flow.Reverse.SrcIP); address.Unmap() == to {
			return true
		}
	}
	return false
}

func TestCaptureFadesWithoutAnAgent(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		l.client.SetLifetime(lifetime)
		must(t, l.client.Apply(l.tables(l.proxy)))
		client, server := l.call(t, l.captured)
		until(t, "the end of capture", func() bool {
			found, err := l.client.Find()
			must(t, err)
			return !found.Captured
		})
		l.call(t, l.service)
		exchange(t, client, server)

		must(t, l.client.Refresh())
		must(t, l.client.Refresh())
		l.call(t, l.captured)
	})
}

func TestRefreshedCaptureLastsWithoutAGap(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		l.client.SetLifetime(lifetime)
		must(t, l.client.Apply(l.tables(l.proxy)))
		agent := l.client
		for start := time.Now(); time.Since(start) < 2*lifetime; {
			// Halfway another agent takes over what it finds.
			if time.Since(start) > lifetime && agent == l.client {
				agent = reopen(t, l.client)
			}
			must(t, agent.Refresh())
			l.call(t, l.captured)
		}
	})
}

func TestStrictPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		const port = 8080
		l.listen(t, fmt.Sprintf(":%d", port))
		to := netip.AddrPortFrom(l.proxy, port)
		before, err := l.dial(l.foreign, to)
		must(t, err)
		defer func() { _ = before.Close() }()

		strict := rules.Pod{Proxy: true, Strict: []rules.StrictPort{{Port: port, Allowed: []netip.Addr{l.addressing.client}}}}
		must(t, l.server.Apply(rules.Build(strict, "", nil)))
		if conn, err := l.dial(l.foreign, to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a foreign caller got %v, %v, want a refused connection", conn, err)
		}
		conn, err := l.dial(l.addressing.client, to)
		must(t, err)
		must(t, conn.Close())

		strict.Strict[0].Allowed = nil
		must(t, l.server.Apply(rules.Build(strict, "", nil)))
		if conn, err := l.dial(l.addressing.client, to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a caller that is not allowed any more got %v, %v, want a refused connection", conn, err)
		}
	})
}

func TestCheckRepairsDamage(t *testing.T) {
	table := func(l *lab) *nftables.Table {
		if l.proxy.Is6() {
			return &nftables.Table{Name: "weft", Family: nftables.TableFamilyIPv6}
		}
		return &nftables.Table{Name: "weft", Family: nftables.TableFamilyIPv4}
	}
	damages := map[string]struct {
		damage func(*nftables.Conn, *lab)
		want   bool
	}{
		"nothing": {damage: func(*nftables.Conn, *lab) {}},
		"another table": {damage: func(c *nftables.Conn, _ *lab) {
			c.AddTable(&nftables.Table{Name: "own", Family: nftables.TableFamilyINet})
		}},
		"no rules": {damage: func(c *nftables.Conn, _ *lab) { c.FlushRuleset() }, want: true},
		"no table": {damage: func(c *nftables.Conn, l *lab) { c.DelTable(table(l)) }, want: true},
		"no choice of a proxy": {damage: func(c *nftables.Conn, l *lab) {
			c.FlushChain(&nftables.Chain{Name: "capture", Table: table(l)})
		}, want: true},
		"no ports": {damage: func(c *nftables.Conn, l *lab) {
			c.FlushSet(&nftables.Set{Name: "ports", Table: table(l)})
		}, want: true},
		"no guard": {damage: func(c *nftables.Conn, _ *lab) {
			c.DelTable(&nftables.Table{Name: "weft", Family: nftables.TableFamilyNetdev})
		}, want: true},
	}
	for name, tc := range damages {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, l *lab) {
				must(t, l.client.Guard([]netip.Addr{l.addressing.client}))
				must(t, l.client.Apply(l.tables(l.proxy)))
				must(t, l.client.Do(func() error {
					conn, err := nftables.New()
					must(t, err)
					tc.damage(conn, l)
					return conn.Flush()
				}))
				repaired, err := l.client.Check()
				must(t, err)
				if repaired != tc.want {
					t.Errorf("repaired: %v, want %v", repaired, tc.want)
				}
				found, err := l.client.Find()
				must(t, err)
				if want := (kernel.Found{Guard: true, Captured: true}); found != want {
					t.Errorf("found %+v afterwards, want %+v", found, want)
				}
				l.call(t, l.captured)
				if repaired, err = l.client.Check(); err != nil || repaired {
					t.Errorf("a second check repaired: %v, error: %v, want nothing to do", repaired, err)
				}
			})
		})
	}
}

// Rules of the largest size come into force in one batch and change in place.
func TestManyPorts(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		many := l.tables(l.proxy)
		ports, first := many.IPv4.Ports, netip.MustParseAddr("10.96.0.1")
		if l.proxy.Is6() {
			ports, first = many.IPv6.Ports, netip.MustParseAddr("fd00:96::1")
		}
		for i, address := 0, first; i < 20000; i, address = i+1, address.Next() {
			ports[netip.AddrPortFrom(address, 80)] = uint16(wire.MinNumber + i)
		}
		must(t, l.client.Apply(many))
		l.call(t, l.captured)
		// Without proxies as many are refused.
		refusing := rules.Tables{IPv4: many.IPv4, IPv6: many.IPv6}
		for _, table := range []*rules.Table{&refusing.IPv4, &refusing.IPv6} {
			table.Proxies = nil
			for _, p := range table.All() {
				table.Refused = append(table.Refused, p.Destination)
			}
		}
		must(t, l.client.Apply(refusing))
		if _, err := l.dial(l.addressing.client, l.vip); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("error %v, want a refused connection", err)
		}
		must(t, intact(t, l))
		must(t, l.client.Apply(l.tables(l.proxy)))
		l.call(t, l.captured)
		must(t, l.client.Apply(many))
		l.call(t, l.captured)
		must(t, intact(t, l))
	})
}

// intact reports what a check finds damaged. A change of somebody else's makes it read everything.
func intact(t *testing.T, l *lab) error {
	t.Helper()
	must(t, l.client.Do(func() error {
		conn, err := nftables.New()
		must(t, err)
		conn.AddTable(&nftables.Table{Name: "own", Family: nftables.TableFamilyINet})
		return conn.Flush()
	}))
	repaired, err := l.client.Check()
	if repaired {
		err = errors.Join(err, errors.New("what is in force differs from what was applied"))
	}
	return err
}

func TestOpenFailsForWhatIsNotThere(t *testing.T) {
	if _, err := kernel.Open("/run/netns/weft-test-nobody-made-this"); err == nil {
		t.Error("a namespace that is not there was opened")
	}
}
