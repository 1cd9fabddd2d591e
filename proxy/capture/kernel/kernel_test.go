package kernel_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

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

// Clear leaves nothing, of an earlier agent's either, and connections go where they would without Weft.
func TestClear(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		strict := l.tables(l.proxy)
		strict.IPv4.Inbound = &rules.Inbound{Strict: []uint16{1}}
		strict.IPv6.Inbound = strict.IPv4.Inbound
		must(t, l.client.Apply(strict))
		must(t, l.client.Guard([]netip.Addr{l.addressing.client}))
		l.call(t, l.captured)
		again, err := kernel.Open(l.client.Path())
		must(t, err)
		defer again.Close()
		for range 2 {
			must(t, again.Clear())
			if found, err := again.Find(); err != nil || found != (kernel.Found{}) {
				t.Errorf("found %+v (error %v)", found, err)
			}
			if tables, err := again.Tables(); err != nil || len(tables) > 0 {
				t.Errorf("tables %v (error %v)", tables, err)
			}
		}
		l.call(t, l.service)
		must(t, l.client.Clear())
		must(t, l.client.Apply(strict))
		l.call(t, l.captured)
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
			tables.IPv4.Inbound = &rules.Inbound{Strict: []uint16{1}}
			tables.IPv6.Inbound = tables.IPv4.Inbound
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
	for name, forget := range map[string]func(*kernel.Netns, []netip.Addr) (int, error){
		"all": (*kernel.Netns).Forget, "unanswered": (*kernel.Netns).ForgetUnanswered,
	} {
		t.Run(name, func(t *testing.T) {
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
				count, err := forget(l.client, []netip.Addr{l.silent})
				must(t, err)
				if count != 1 {
					t.Errorf("forgot %d connections, want 1", count)
				}
				accept(t, l.captured)
				must(t, <-dialed)
			})
		})
	}
}

// A proxy that is taken for dead and lives answers on the connections that it has. One that is dead does not
// acknowledge what the client sends; then the client learns of it.
func TestUnansweredConnectionsAreReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		forget := func() int {
			count, err := l.client.ForgetUnanswered([]netip.Addr{l.proxy})
			must(t, err)
			return count
		}
		must(t, l.client.Apply(l.tables(l.proxy)))
		client, server := l.call(t, l.captured)
		exchange(t, client, server)
		must(t, l.client.Apply(l.tables(l.second)))
		until(t, "acknowledgement", func() bool { return l.acknowledged(t, client) })
		if count := forget(); count != 0 {
			t.Errorf("forgot %d connections that are answered", count)
		}
		exchange(t, client, server)

		l.unplug(t, l.proxy)
		_, err := client.Write([]byte{1})
		must(t, err)
		until(t, "an unanswered connection", func() bool { return forget() == 1 })
		must(t, client.SetReadDeadline(time.Now().Add(deadline)))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the client's connection ends with %v, want a reset", err)
		}
	})
}

// Linux gives one source port to connections with different destinations. They must not be taken for one
// another where a proxy's redirect brings their destinations together: the kernel gives the second another
// source port there.
func TestOneSourcePortToTwoServices(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		other := netip.AddrPortFrom(l.vip.Addr(), l.vip.Port()+1)
		must(t, l.client.Apply(rules.Build(rules.Pod{Capture: &wire.Capture{
			Ports: []wire.CapturedPort{
				{Address: l.vip.Addr(), Port: l.vip.Port(), Number: number},
				{Address: other.Addr(), Port: other.Port(), Number: number + 1},
			},
			Proxies: []wire.Proxy{{Addresses: []netip.Addr{l.proxy}}},
		}}, "", func(netip.Addr) bool { return true })))
		source := netip.AddrPortFrom(l.addressing.client, 40000)
		for to, want := range map[netip.AddrPort]uint16{l.vip: number, other: number + 1} {
			client, err := l.dialFrom(source, to)
			must(t, err)
			defer func() { _ = client.Close() }()
			server := accept(t, l.captured)
			exchange(t, client, server)
			if original, err := kernel.OriginalDestination(server); err != nil || original.Port() != want {
				t.Errorf("original destination %v, %v; want number %d", original, err, want)
			}
		}
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
		"another guard": {damage: func(c *nftables.Conn, _ *lab) {
			chain := &nftables.Chain{Name: "guard", Table: &nftables.Table{Name: "weft", Family: nftables.TableFamilyNetdev}}
			list, err := c.GetRules(chain.Table, chain)
			must(t, err)
			last := list[len(list)-1]
			last.Exprs = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
			c.ReplaceRule(last)
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

func TestOpenFailsForWhatIsNotThere(t *testing.T) {
	if _, err := kernel.Open("/run/netns/weft-test-nobody-made-this"); err == nil {
		t.Error("a namespace that is not there was opened")
	}
}
