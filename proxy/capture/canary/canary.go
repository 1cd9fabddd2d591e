// Package canary proves on a node, with the kernel of that node and the code that serves pods, that
// connections are captured with the right destination number, that forged source addresses do not
// leave a pod, and that foreign callers are counted, and refused by strict ports.
//
// It makes two network namespaces without names that are connected to each other and to nothing else,
// so its addresses (the documentation ranges of RFC 5737 and RFC 3849) cannot collide with any, no
// packet of it leaves them, and nothing of it survives the process. It must not touch a pod.
package canary

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

const (
	// step bounds each wait for the kernel.
	step       = 5 * time.Second
	number     = wire.MinNumber + 1
	strictPort = 8080
)

// addressing is what the two namespaces are called in one family.
type addressing struct {
	family string
	// caller and foreign belong to the one namespace, server to the other, forged to none.
	caller, foreign, server, forged netip.Addr
	vip                             netip.AddrPort
	bits                            int
}

// Canary proves capture. Make it with New; one run at a time.
type Canary struct {
	families []addressing
	// guard and apply put rules in force; tests leave them out to see the proof fail.
	guard func(*kernel.Netns, []netip.Addr) error
	apply func(*kernel.Netns, rules.Tables) error
}

// New returns a canary that connects to the Service address given, which shall be one that the cluster
// really has: a data plane that translates Services when a pod connects, before its packets pass any
// rule, is noticed only so. An invalid one stands for none.
func New(service netip.AddrPort) *Canary {
	families := []addressing{{
		family: "IPv4", bits: 24,
		caller: netip.MustParseAddr("192.0.2.1"), foreign: netip.MustParseAddr("192.0.2.3"),
		server: netip.MustParseAddr("192.0.2.2"), forged: netip.MustParseAddr("192.0.2.66"),
		vip: netip.MustParseAddrPort("198.51.100.1:80"),
	}}
	// The directory is there unless the kernel has no IPv6.
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		families = append(families, addressing{
			family: "IPv6", bits: 64,
			caller: netip.MustParseAddr("2001:db8::1"), foreign: netip.MustParseAddr("2001:db8::3"),
			server: netip.MustParseAddr("2001:db8::2"), forged: netip.MustParseAddr("2001:db8::66"),
			vip: netip.MustParseAddrPort("[2001:db8:1::1]:80"),
		})
	}
	for i := range families {
		if service.IsValid() && service.Addr().Unmap().Is4() == families[i].caller.Is4() {
			families[i].vip = netip.AddrPortFrom(service.Addr().Unmap(), service.Port())
		}
	}
	return &Canary{
		families: families,
		guard:    func(n *kernel.Netns, addresses []netip.Addr) error { return n.Guard(addresses) },
		apply:    func(n *kernel.Netns, tables rules.Tables) error { return n.Apply(tables) },
	}
}

// Run proves everything once. It needs a few hundred milliseconds, and step for each thing that does
// not happen.
func (c *Canary) Run(ctx context.Context) wire.CanaryReport {
	captured, guarded, strict := c.prove(ctx)
	report := wire.CanaryReport{
		Time: time.Now(), Captured: captured == nil, Guarded: guarded == nil, StrictEnforced: strict == nil,
	}
	if err := errors.Join(captured, guarded, strict); err != nil {
		report.Reason = err.Error()
	}
	return report
}

// prove returns why each of the facts is not proven.
func (c *Canary) prove(ctx context.Context) (captured, guarded, strict error) {
	pair, err := c.connect()
	if err != nil {
		err = fmt.Errorf("canary: %w", err)
		return err, err, err
	}
	captured = pair.proveCaptured(ctx)
	guarded = pair.proveGuarded(ctx)
	strict = pair.proveStrict(ctx)
	if err := pair.close(); err != nil {
		captured = errors.Join(captured, fmt.Errorf("canary: %w", err))
	}
	return captured, guarded, strict
}

// pair is the two namespaces: caller stands for a pod, server for a proxy and for a pod that is called.
type pair struct {
	*Canary
	caller, server *kernel.Netns
}

func (c *Canary) connect() (*pair, error) {
	caller, err := kernel.New()
	if err != nil {
		return nil, err
	}
	server, err := kernel.New()
	if err != nil {
		return nil, errors.Join(err, caller.Close())
	}
	p := &pair{Canary: c, caller: caller, server: server}
	var ofCaller, ofServer []netip.Prefix
	for _, a := range c.families {
		ofCaller = append(ofCaller, netip.PrefixFrom(a.caller, a.bits), netip.PrefixFrom(a.foreign, a.bits))
		ofServer = append(ofServer, netip.PrefixFrom(a.server, a.bits))
	}
	if err := kernel.Join(caller, server, ofCaller, ofServer); err != nil {
		return nil, errors.Join(err, p.close())
	}
	for _, a := range c.families {
		if err := caller.Route(a.server); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	return p, nil
}

func (p *pair) close() error { return errors.Join(p.caller.Close(), p.server.Close()) }

// proveCaptured connects to a Service and sees the connection arrive at a proxy with its number.
func (p *pair) proveCaptured(ctx context.Context) error {
	capture := &wire.Capture{}
	proxy := wire.Proxy{}
	for _, a := range p.families {
		capture.Ports = append(capture.Ports, wire.CapturedPort{Address: a.vip.Addr(), Port: a.vip.Port(), Number: number})
		proxy.Addresses = append(proxy.Addresses, a.server)
	}
	capture.Proxies = []wire.Proxy{proxy}
	always := func(netip.Addr) bool { return true }
	if err := p.apply(p.caller, rules.Build(rules.Pod{Capture: capture}, "", always)); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	if err := p.apply(p.server, rules.Build(rules.Pod{Proxy: true}, "", always)); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	listener, err := p.listen(ctx, wire.PortCaptured)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	defer func() { _ = listener.Close() }()
	for _, a := range p.families {
		if err := p.captured(ctx, a, listener); err != nil {
			return fmt.Errorf("capture over %s: %w", a.family, err)
		}
	}
	return nil
}

func (p *pair) captured(ctx context.Context, a addressing, listener *net.TCPListener) error {
	client, err := p.dial(ctx, a.caller, a.vip)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := listener.SetDeadline(time.Now().Add(step)); err != nil {
		return err
	}
	conn, err := listener.AcceptTCP()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	original, err := kernel.OriginalDestination(conn)
	if err != nil {
		return err
	}
	if original.Port() != number {
		return fmt.Errorf("the connection arrived with number %d instead of %d", original.Port(), number)
	}
	caller := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if caller != a.caller {
		return fmt.Errorf("the connection arrived from %v instead of %v", caller, a.caller)
	}
	return nil
}

// proveStrict takes the step that a Service takes: a foreign caller gets in and is counted; then the port
// becomes strict, and its connection ends, it is refused and counted, and an admitted caller gets in.
func (p *pair) proveStrict(ctx context.Context) error {
	pod := rules.Pod{
		Capture: &wire.Capture{},
		Inbound: &wire.Inbound{Ports: []wire.InboundPort{{Port: strictPort}}},
		// The rules for callers alone.
		OptedOut: true,
	}
	for _, a := range p.families {
		pod.Capture.Admitted = append(pod.Capture.Admitted, a.caller)
	}
	if err := p.apply(p.server, rules.Build(pod, "", nil)); err != nil {
		return fmt.Errorf("strict: %w", err)
	}
	listener, err := p.listen(ctx, strictPort)
	if err != nil {
		return fmt.Errorf("strict: %w", err)
	}
	defer func() { _ = listener.Close() }()
	open := map[string]net.Conn{}
	for _, a := range p.families {
		conn, err := p.dial(ctx, a.foreign, netip.AddrPortFrom(a.server, strictPort))
		if err != nil {
			return fmt.Errorf("permissive over %s: a foreign caller: %w", a.family, err)
		}
		defer func() { _ = conn.Close() }()
		open[a.family] = conn
	}
	if err := p.counted(func(c kernel.Caller) uint64 { return c.Connections }); err != nil {
		return fmt.Errorf("permissive %w", err)
	}
	pod.Inbound.Ports[0].Strict = true
	if err := p.apply(p.server, rules.Build(pod, "", nil)); err != nil {
		return fmt.Errorf("strict: %w", err)
	}
	for _, a := range p.families {
		if err := p.refused(ctx, a, open[a.family]); err != nil {
			return fmt.Errorf("strict over %s: %w", a.family, err)
		}
	}
	if err := p.counted(func(c kernel.Caller) uint64 { return c.Refused }); err != nil {
		return fmt.Errorf("strict %w", err)
	}
	return nil
}

// refused sees a strict port end the connection that a foreign caller has opened before.
func (p *pair) refused(ctx context.Context, a addressing, before net.Conn) error {
	to := netip.AddrPortFrom(a.server, strictPort)
	conn, err := p.dial(ctx, a.foreign, to)
	if err == nil {
		_ = conn.Close()
		return errors.New("a foreign caller was let in")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("a foreign caller was not refused: %w", err)
	}
	if conn, err = p.dial(ctx, a.caller, to); err != nil {
		return fmt.Errorf("an admitted caller: %w", err)
	}
	_ = conn.Close()
	// Where the kernel cannot end it at once, what the caller sends next does.
	_, err = before.Write([]byte{1})
	if err == nil {
		if err := before.SetReadDeadline(time.Now().Add(step)); err != nil {
			return err
		}
		_, err = before.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("the connection that a foreign caller had opened before was not reset: %w", err)
	}
	return nil
}

// counted sees that every foreign caller was counted.
func (p *pair) counted(count func(kernel.Caller) uint64) error {
	callers, err := p.server.Callers()
	if err != nil {
		return err
	}
	for _, a := range p.families {
		found := slices.ContainsFunc(callers, func(c kernel.Caller) bool {
			return c.Port == strictPort && c.Source == a.foreign && count(c) > 0
		})
		if !found {
			return fmt.Errorf("over %s: a foreign caller was not counted", a.family)
		}
	}
	return nil
}

// listen opens a listener of both families in the server's namespace.
func (p *pair) listen(ctx context.Context, port uint16) (*net.TCPListener, error) {
	var listener net.Listener
	err := p.server.Do(func() (err error) {
		// The original destination can be read from a plain TCP socket only.
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		listener, err = config.Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// dial connects from the caller's namespace.
func (p *pair) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := p.caller.Do(func() (err error) {
		dialer := net.Dialer{Timeout: step, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err = dialer.DialContext(ctx, "tcp", to.String())
		return err
	})
	return conn, err
}
