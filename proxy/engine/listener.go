package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"weft.dev/weft/proxy/wire"
)

// Target names the destination that a connection is for: by Key if it is set, else by Address, a cluster IP and port, if
// that is valid, else by Number.
type Target struct {
	Key     string
	Address netip.AddrPort
	Number  uint16
}

// Listener accepts connections of clients and tells which destination each of them is for.
type Listener interface {
	net.Listener
	// Target is called once per accepted connection, in a goroutine of that connection.
	Target(conn net.Conn) (Target, error)
}

// Captured returns a Listener for connections that netfilter has redirected to l from the destination
// numbers of this pod, as the node agent sets it up.
func Captured(l net.Listener) Listener { return captured{l} }

// CapturedBeside returns a Listener for connections that netfilter has redirected to l within the pod of both sides, from
// cluster IPs and ports.
func CapturedBeside(l net.Listener) Listener { return capturedBeside{l} }

// Direct returns a Listener whose connections are all for one destination, by its key. It serves where
// nothing is captured: every destination has a real port then.
func Direct(l net.Listener, key string) Listener { return direct{Listener: l, key: key} }

// errNotRedirected says that a client connected to the captured listener itself.
var errNotRedirected = errors.New("connection was not redirected")

type captured struct{ net.Listener }

func (captured) Target(conn net.Conn) (Target, error) {
	original, err := redirectedFrom(conn)
	if err != nil {
		return Target{}, err
	}
	// A connection that nothing redirected may be reported with the listener's own port.
	if original.Port() < wire.MinNumber {
		return Target{}, errNotRedirected
	}
	return Target{Number: original.Port()}, nil
}

// redirectedFrom returns what the client of a connection connected to.
func redirectedFrom(conn net.Conn) (netip.AddrPort, error) {
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("original destination: %T is no socket", conn)
	}
	return originalDestination(raw, conn.RemoteAddr())
}

type capturedBeside struct{ net.Listener }

func (capturedBeside) Target(conn net.Conn) (Target, error) {
	original, err := redirectedFrom(conn)
	if err != nil {
		return Target{}, err
	}
	original = netip.AddrPortFrom(original.Addr().Unmap(), original.Port())
	// A connection that nothing redirected may be reported with the listener's own address.
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok && original == netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), local.AddrPort().Port()) {
		return Target{}, errNotRedirected
	}
	return Target{Address: original}, nil
}

type direct struct {
	net.Listener
	key string
}

func (l direct) Target(net.Conn) (Target, error) { return Target{Key: l.key}, nil }

// handover is a net.Listener whose connections come from inside the process: those accepted elsewhere
// and found to be HTTP.
type handover struct {
	conns  chan net.Conn
	done   chan struct{}
	closed sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

var errHandoverClosed = errors.New("server is not accepting")

// give passes a connection on. The error means that it still belongs to the caller.
func (h *handover) give(conn net.Conn) error {
	select {
	case h.conns <- conn:
		return nil
	case <-h.done:
		return errHandoverClosed
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.closed.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return handoverAddr{} }

type handoverAddr struct{}

func (handoverAddr) Network() string { return "handover" }
func (handoverAddr) String() string  { return "handover" }
