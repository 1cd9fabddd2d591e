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
	"syscall"
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
	// silent is an address that never answers.
	silent netip.Addr
	vip    netip.AddrPort
	bits   int
}

var families = map[string]addressing{
	"IPv4": {
		client: netip.MustParseAddr("192.0.2.1"), foreign: netip.MustParseAddr("192.0.2.9"),
		proxy: netip.MustParseAddr("192.0.2.2"), second: netip.MustParseAddr("192.0.2.3"),
		silent: netip.MustParseAddr("192.0.2.7"),
		vip:    netip.MustParseAddrPort("198.51.100.10:80"), bits: 24,
	},
	"IPv6": {
		client: netip.MustParseAddr("2001:db8::1"), foreign: netip.MustParseAddr("2001:db8::9"),
		proxy: netip.MustParseAddr("2001:db8::2"), second: netip.MustParseAddr("2001:db8::3"),
		silent: netip.MustParseAddr("2001:db8::7"),
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
			l.unplug(t, a.silent)
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
	return listenIn(t, l.server, address)
}

func listenIn(t *testing.T, n *kernel.Netns, address string) *net.TCPListener {
	t.Helper()
	var listener net.Listener
	must(t, n.Do(func() (err error) {
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
	return l.dialFrom(netip.AddrPortFrom(from, 0), to)
}

// dialFrom connects from an address and port of the client, which other connections may have as well.
func (l *lab) dialFrom(from, to netip.AddrPort) (*net.TCPConn, error) {
	return dialIn(l.client, from, to)
}

// dialIn connects from a namespace; an invalid address stands for any.
func dialIn(n *kernel.Netns, from, to netip.AddrPort) (*net.TCPConn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		dialer := net.Dialer{Timeout: deadline, Control: reuseAddress}
		if from.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		conn, err = dialer.DialContext(context.Background(), "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func reuseAddress(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, failed)
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

// reopen gives the namespace to another agent.
func reopen(t *testing.T, n *kernel.Netns) *kernel.Netns {
	t.Helper()
	again, err := kernel.Open(n.Path())
	must(t, err)
	t.Cleanup(func() { must(t, again.Close()) })
	return again
}

// moreAddresses gives the client as many others, which the server knows a way to.
func (l *lab) moreAddresses(t *testing.T, count int) []netip.Addr {
	t.Helper()
	prefix := netip.MustParsePrefix("203.0.112.0/23")
	if l.proxy.Is6() {
		prefix = netip.MustParsePrefix("2001:db8:2::/64")
	}
	var out []netip.Addr
	must(t, l.client.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for address := prefix.Addr().Next(); len(out) < count; address = address.Next() {
			added := &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(prefix.Bits(), address.BitLen())}, Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(link, added); err != nil {
				return err
			}
			out = append(out, address)
		}
		return nil
	}))
	must(t, l.server.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		to := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to})
	}))
	return out
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

// acknowledged tells whether the other side has acknowledged everything that was sent on a connection.
func (l *lab) acknowledged(t *testing.T, conn *net.TCPConn) bool {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	var info *unix.TCPInfo
	var optionErr error
	must(t, raw.Control(func(fd uintptr) { info, optionErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }))
	must(t, optionErr)
	return info.Unacked == 0
}

// unplug makes what the client sends to an address get lost on the link.
func (l *lab) unplug(t *testing.T, address netip.Addr) {
	t.Helper()
	must(t, l.client.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		nobody := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: address.AsSlice(), HardwareAddr: nobody, State: netlink.NUD_PERMANENT})
	}))
}

// intact reports what a check finds damaged at the client.
func intact(t *testing.T, l *lab) error { return intactAt(t, l.client) }

// intactAt reports what a check finds damaged. A change of somebody else's makes it read everything.
func intactAt(t *testing.T, n *kernel.Netns) error {
	t.Helper()
	must(t, n.Do(func() error {
		conn, err := nftables.New()
		must(t, err)
		conn.AddTable(&nftables.Table{Name: "own", Family: nftables.TableFamilyINet})
		return conn.Flush()
	}))
	repaired, err := n.Check()
	if repaired {
		err = errors.Join(err, errors.New("what is in force differs from what was applied"))
	}
	return err
}
