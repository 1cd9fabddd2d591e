package kernel_test

import (
	"errors"
	"fmt"
	"io"
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

// The server of a lab is the pod that is called here; the client plays a proxy of its namespace (client) and
// somebody else (foreign).
const (
	published = 8080
	peers     = 9090
)

// guarded is what the server gets if its published port is strict or not, and the client's address that of
// a proxy.
func (l *lab) guarded(strict bool, allowed ...netip.Prefix) rules.Pod {
	return rules.Pod{
		Addresses: []netip.Addr{l.proxy, l.second}, OptedOut: true,
		Capture: &wire.Capture{Admitted: []netip.Addr{l.addressing.client}, Strict: strict},
		Inbound: &wire.Inbound{Ports: []wire.InboundPort{{Port: published, Strict: strict, Allowed: allowed}}},
	}
}

func (l *lab) applyToServer(t *testing.T, pod rules.Pod) {
	t.Helper()
	must(t, l.server.Apply(rules.Build(pod, "", nil)))
}

func single(address netip.Addr) netip.Prefix { return netip.PrefixFrom(address, address.BitLen()) }

// wantRefused dials the server and is refused.
func (l *lab) wantRefused(t *testing.T, from netip.Addr, port uint16) {
	t.Helper()
	conn, err := l.dial(from, netip.AddrPortFrom(l.proxy, port))
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v to port %d: error %v, want a refused connection", from, port, err)
	}
}

// open connects to the server and returns both ends.
func (l *lab) open(t *testing.T, from netip.Addr, listener *net.TCPListener) (caller, called *net.TCPConn) {
	t.Helper()
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	caller, err := l.dial(from, netip.AddrPortFrom(l.proxy, port))
	if err != nil {
		t.Fatalf("%v to port %d: %v", from, port, err)
	}
	t.Cleanup(func() { _ = caller.Close() })
	return caller, accept(t, listener)
}

// wantEnded waits for the end of a connection that nobody has closed.
func wantEnded(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(deadline)))
	_, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("the connection ended with %v, want it reset", err)
	}
}

func TestStrictPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		unpublished := l.listen(t, fmt.Sprintf(":%d", peers))
		l.applyToServer(t, l.guarded(true))
		l.wantRefused(t, l.foreign, published)
		l.open(t, l.addressing.client, listener)
		// Peers use ports that no Service publishes.
		l.open(t, l.foreign, unpublished)

		l.applyToServer(t, l.guarded(true, single(l.foreign)))
		l.open(t, l.foreign, listener)
		l.applyToServer(t, l.guarded(true))
		l.wantRefused(t, l.foreign, published)

		// No proxy is left.
		pod := l.guarded(true)
		pod.Capture.Admitted = nil
		l.applyToServer(t, pod)
		l.wantRefused(t, l.addressing.client, published)
		// The node probes.
		pod.Node = []netip.Addr{l.addressing.client}
		l.applyToServer(t, pod)
		l.open(t, l.addressing.client, listener)

		l.applyToServer(t, l.guarded(false))
		l.open(t, l.foreign, listener)
		l.applyToServer(t, l.guarded(true))
		l.wantRefused(t, l.foreign, published)
		// A policy that is gone leaves nothing behind.
		l.applyToServer(t, rules.Pod{})
		l.open(t, l.foreign, listener)
		if chains := l.chains(t, l.server); len(chains) != 0 {
			t.Errorf("chains %v are left", chains)
		}
	})
}

// chains lists what Weft has in a namespace.
func (l *lab) chains(t *testing.T, n *kernel.Netns) []string {
	t.Helper()
	var names []string
	must(t, n.Do(func() error {
		conn, err := nftables.New()
		must(t, err)
		chains, err := conn.ListChains()
		for _, chain := range chains {
			names = append(names, chain.Table.Name+"/"+chain.Name)
		}
		return err
	}))
	return names
}

// Allowed prefixes of all lengths, and those that contain each other.
func TestAllowedPrefixes(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		prefix := netip.PrefixFrom
		host := l.foreign.BitLen()
		for _, tc := range []struct {
			allowed []netip.Prefix
			in      bool
		}{
			{allowed: []netip.Prefix{prefix(l.foreign, 0)}, in: true},
			{allowed: []netip.Prefix{prefix(l.foreign, host-1)}, in: true},
			{allowed: []netip.Prefix{single(l.second), prefix(l.foreign, host-4), single(l.foreign)}, in: true},
			{allowed: []netip.Prefix{single(l.second), single(l.foreign)}, in: true},
			{allowed: []netip.Prefix{prefix(l.second, host-1)}},
			{allowed: []netip.Prefix{prefix(l.vip.Addr(), host-8)}},
			{allowed: []netip.Prefix{prefix(l.foreign, host-4)}, in: true},
			{},
		} {
			l.applyToServer(t, l.guarded(true, tc.allowed...))
			if tc.in {
				l.open(t, l.foreign, listener)
			} else {
				l.wantRefused(t, l.foreign, published)
			}
			must(t, intactAt(t, l.server))
		}
	})
}

// What others have opened before ends with the step to strict, at once and on both sides, and what is
// admitted, or goes to another port, goes on; also where connection tracking has never seen it.
func TestStrictEndsWhatOthersHaveOpened(t *testing.T) {
	befores := map[string]func(*testing.T, *lab){
		"tracked":   func(t *testing.T, l *lab) { l.applyToServer(t, l.guarded(false)) },
		"untracked": func(t *testing.T, l *lab) { l.applyToServer(t, rules.Pod{}) },
	}
	for name, before := range befores {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, l *lab) {
				before(t, l)
				listener, unpublished := l.listen(t, fmt.Sprintf(":%d", published)), l.listen(t, fmt.Sprintf(":%d", peers))
				caller, called := l.open(t, l.foreign, listener)
				admitted, admittedCalled := l.open(t, l.addressing.client, listener)
				peer, peerCalled := l.open(t, l.foreign, unpublished)
				l.applyToServer(t, l.guarded(true))
				wantEnded(t, called)
				wantEnded(t, caller)
				exchange(t, admitted, admittedCalled)
				exchange(t, peer, peerCalled)
			})
		})
	}
}

// Where the kernel cannot end them at once, the next packet of the caller does, whoever sends first, and
// whether connection tracking has seen the connection begin or not.
func TestStrictEndsWithTheNextPacket(t *testing.T) {
	for name, before := range map[string]func(*lab) rules.Pod{
		"tracked": func(l *lab) rules.Pod { return l.guarded(false) }, "untracked": func(*lab) rules.Pod { return rules.Pod{} },
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, l *lab) {
				l.server.CannotDestroy()
				l.applyToServer(t, before(l))
				listener := l.listen(t, fmt.Sprintf(":%d", published))
				speaks, _ := l.open(t, l.foreign, listener)
				listens, called := l.open(t, l.foreign, listener)
				admitted, admittedCalled := l.open(t, l.addressing.client, listener)
				l.applyToServer(t, l.guarded(true))
				_, err := speaks.Write([]byte{1})
				must(t, err)
				wantEnded(t, speaks)
				_, err = called.Write([]byte{1})
				must(t, err)
				must(t, listens.SetReadDeadline(time.Now().Add(deadline)))
				// What the pod has sent arrives; that it did, the caller cannot say any more.
				_, err = listens.Read(make([]byte, 1))
				must(t, err)
				wantEnded(t, listens)
				exchange(t, admittedCalled, admitted)
			})
		})
	}
}

// A caller that is not admitted any more, or not allowed, loses its connections too.
func TestDismissedCallersLoseTheirConnections(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		l.applyToServer(t, l.guarded(true, single(l.foreign)))
		allowed, _ := l.open(t, l.foreign, listener)
		admitted, _ := l.open(t, l.addressing.client, listener)
		l.applyToServer(t, l.guarded(true))
		wantEnded(t, allowed)
		pod := l.guarded(true)
		pod.Capture.Admitted = nil
		l.applyToServer(t, pod)
		wantEnded(t, admitted)
	})
}

// A pod's own connections may have the number of a strict port on its side.
func TestOwnConnectionsFromAStrictPort(t *testing.T) {
	for name, tracked := range map[string]bool{"tracked": true, "untracked": false} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, l *lab) {
				if tracked {
					l.applyToServer(t, l.guarded(false))
				} else {
					l.applyToServer(t, rules.Pod{})
				}
				far := listenIn(t, l.client, netip.AddrPortFrom(l.foreign, peers).String())
				from := func() (*net.TCPConn, *net.TCPConn) {
					own, err := dialIn(l.server, netip.AddrPortFrom(l.proxy, published), netip.AddrPortFrom(l.foreign, peers))
					must(t, err)
					t.Cleanup(func() { _ = own.Close() })
					return own, accept(t, far)
				}
				own, other := from()
				l.applyToServer(t, l.guarded(true))
				// The other side is the first to send.
				exchange(t, other, own)
				must(t, errors.Join(own.SetLinger(0), own.Close()))
				own, other = from()
				exchange(t, other, own)
			})
		})
	}
}

// Nothing is known of the ports of a pod: it is closed, and what is open stays open.
func TestClosed(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		l.applyToServer(t, rules.Pod{})
		listener, unpublished := l.listen(t, fmt.Sprintf(":%d", published)), l.listen(t, fmt.Sprintf(":%d", peers))
		caller, called := l.open(t, l.foreign, unpublished)
		closed := l.guarded(true)
		closed.Inbound = nil
		l.applyToServer(t, closed)
		l.wantRefused(t, l.foreign, published)
		l.wantRefused(t, l.foreign, peers)
		l.open(t, l.addressing.client, listener)
		exchange(t, caller, called)
		must(t, intactAt(t, l.server))

		l.applyToServer(t, l.guarded(true))
		l.wantRefused(t, l.foreign, published)
		l.open(t, l.foreign, unpublished)
		exchange(t, caller, called)
		l.applyToServer(t, closed)
		l.wantRefused(t, l.foreign, peers)
		must(t, intactAt(t, l.server))
	})
}

// A pod that calls its own Service may come back to itself, over the loopback device or by way of the node.
func TestCallsToItself(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		pod := l.guarded(true)
		pod.Addresses = nil
		l.applyToServer(t, pod)
		conn, err := dialIn(l.server, netip.AddrPort{}, netip.AddrPortFrom(l.proxy, published))
		must(t, err)
		defer func() { _ = conn.Close() }()
		exchange(t, conn, accept(t, listener))
		// On the wire its own address is the pod's, since nobody else can send from it.
		pod.Addresses = []netip.Addr{l.foreign}
		l.applyToServer(t, pod)
		l.open(t, l.foreign, listener)
	})
}

// Proxies and allowed addresses come and go, ports become strict and open again, agents follow each other,
// all while admitted callers connect: none of them is ever refused, and nobody else ever gets in while the
// port is strict.
func TestChangesUnderLoad(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
			}
		}()
		others := make([]netip.Addr, 0, 200)
		for address := l.vip.Addr(); len(others) < cap(others); address = address.Next() {
			others = append(others, address)
		}
		pod := func(turn int, strict bool) rules.Pod {
			p := l.guarded(strict, single(l.second), single(l.addressing.client))
			// The client is admitted and allowed in turns, and always one of them.
			switch turn % 3 {
			case 0:
				p.Inbound.Ports[0].Allowed = []netip.Prefix{netip.PrefixFrom(l.addressing.client, l.addressing.client.BitLen()-1)}
				p.Capture.Admitted = nil
			case 1:
				p.Inbound.Ports[0].Allowed = nil
			}
			p.Capture.Admitted = append(p.Capture.Admitted, others[turn%100:turn%100+100]...)
			p.Inbound.Ports = append(p.Inbound.Ports, wire.InboundPort{Port: uint16(10000 + turn%5), Strict: turn%2 == 0})
			if turn%7 == 0 {
				// Nothing is known for a moment.
				p.Inbound, p.Capture.Admitted, p.Capture.Strict = nil, append(p.Capture.Admitted, l.addressing.client), true
			}
			return p
		}
		// Bits of a prefix of the client must not hold the foreign one.
		if netip.PrefixFrom(l.addressing.client, l.addressing.client.BitLen()-1).Contains(l.foreign) {
			t.Fatal("the addresses of the lab are too close")
		}
		agent := l.server
		apply := func(p rules.Pod) error { return agent.Apply(rules.Build(p, "", nil)) }
		// run calls until all changes are made.
		run := func(strictOnly bool, call func() error) {
			t.Helper()
			const turns = 60
			changed := make(chan error, 1)
			go func() {
				defer close(changed)
				for turn := range turns {
					if turn%11 == 0 {
						agent = reopen(t, l.server)
					}
					if err := apply(pod(turn, strictOnly || turn%2 == 0)); err != nil {
						changed <- fmt.Errorf("turn %d: %w", turn, err)
						return
					}
				}
			}()
			for calls := 0; ; calls++ {
				select {
				case err := <-changed:
					must(t, err)
					return
				default:
				}
				if err := call(); err != nil {
					t.Errorf("call %d: %v", calls, err)
					must(t, <-changed)
					return
				}
			}
		}
		to := netip.AddrPortFrom(l.proxy, published)
		must(t, apply(pod(0, true)))
		run(false, func() error {
			conn, err := l.dial(l.addressing.client, to)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetReadDeadline(time.Now().Add(deadline))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				return fmt.Errorf("the connection ended with %w", err)
			}
			return nil
		})
		must(t, apply(pod(1, true)))
		run(true, func() error {
			conn, err := l.dial(l.foreign, to)
			if err == nil {
				_ = conn.Close()
				return errors.New("let in")
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
			return nil
		})
	})
}

func TestCheckRepairsDamagedStrictPorts(t *testing.T) {
	table := func(l *lab) *nftables.Table {
		if l.proxy.Is6() {
			return &nftables.Table{Name: "weft", Family: nftables.TableFamilyIPv6}
		}
		return &nftables.Table{Name: "weft", Family: nftables.TableFamilyIPv4}
	}
	set := func(name string) func(*nftables.Conn, *lab) {
		return func(c *nftables.Conn, l *lab) { c.FlushSet(&nftables.Set{Name: name, Table: table(l)}) }
	}
	chain := func(name string) func(*nftables.Conn, *lab) {
		return func(c *nftables.Conn, l *lab) { c.FlushChain(&nftables.Chain{Name: name, Table: table(l)}) }
	}
	damages := map[string]func(*nftables.Conn, *lab){
		"no rules":        func(c *nftables.Conn, _ *lab) { c.FlushRuleset() },
		"no input":        chain("input"),
		"no refusal":      chain("strict"),
		"no strict ports": set("strict-ports"),
		"nobody admitted": set("admitted"),
		"nobody allowed":  set("allowed0"),
		"another refusal": func(c *nftables.Conn, l *lab) {
			chain := &nftables.Chain{Name: "strict", Table: table(l)}
			list, err := c.GetRules(chain.Table, chain)
			must(t, err)
			last := list[len(list)-1]
			last.Exprs = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
			c.ReplaceRule(last)
		},
		"another rule for loopback": func(c *nftables.Conn, l *lab) {
			chain := &nftables.Chain{Name: "input", Table: table(l)}
			list, err := c.GetRules(chain.Table, chain)
			must(t, err)
			list[0].Exprs[1].(*expr.Cmp).Data[0] = 'e'
			c.ReplaceRule(list[0])
		},
		"somebody else admitted": func(c *nftables.Conn, l *lab) {
			must(t, c.SetAddElements(&nftables.Set{Name: "admitted", Table: table(l)}, []nftables.SetElement{{Key: l.foreign.AsSlice()}}))
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, l *lab) {
				listener := l.listen(t, fmt.Sprintf(":%d", published))
				l.applyToServer(t, l.guarded(true, single(l.second)))
				must(t, intactAt(t, l.server))
				must(t, l.server.Do(func() error {
					conn, err := nftables.New()
					must(t, err)
					damage(conn, l)
					return conn.Flush()
				}))
				repaired, err := l.server.Check()
				must(t, err)
				if !repaired {
					t.Error("the damage was not found")
				}
				l.wantRefused(t, l.foreign, published)
				l.open(t, l.addressing.client, listener)
				if repaired, err = l.server.Check(); err != nil || repaired {
					t.Errorf("a second check repaired: %v, error: %v, want nothing to do", repaired, err)
				}
			})
		})
	}
}

// Ten ports with two hundred allowed addresses each, and a proxy that comes, in sets.
func TestManyAllowed(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		pod := l.guarded(true)
		pod.Inbound.Ports = nil
		for port := range 10 {
			p := wire.InboundPort{Port: uint16(published + port), Strict: true}
			for address := l.vip.Addr(); len(p.Allowed) < 200; address = address.Next() {
				p.Allowed = append(p.Allowed, single(address))
			}
			p.Allowed = append(p.Allowed, single(l.foreign))
			pod.Inbound.Ports = append(pod.Inbound.Ports, p)
		}
		l.applyToServer(t, pod)
		must(t, intactAt(t, l.server))
		l.open(t, l.foreign, listener)
		pod.Capture.Admitted = append(pod.Capture.Admitted, l.second)
		pod.Inbound.Ports[0].Allowed = pod.Inbound.Ports[0].Allowed[:200]
		l.applyToServer(t, pod)
		must(t, intactAt(t, l.server))
		l.wantRefused(t, l.foreign, published)
		l.open(t, l.addressing.client, listener)
	})
}
