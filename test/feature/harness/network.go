package harness

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// network leads addresses of pods and proxies to the listeners that stand for them; to "" if nothing
// listens there any more.
type network struct {
	mu      sync.Mutex
	leadsTo map[netip.AddrPort]string
}

func newNetwork() *network { return &network{leadsTo: map[netip.AddrPort]string{}} }

func (n *network) set(address netip.AddrPort, listener string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leadsTo[address] = listener
}

func (n *network) has(address netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.leadsTo[address]
	return ok
}

// dial connects to an address. Where nothing listens the connection is refused, as by a host that is up.
func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	n.mu.Lock()
	listener := n.leadsTo[target]
	n.mu.Unlock()
	if listener == "" {
		return nil, &net.OpError{
			Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(target), Err: syscall.ECONNREFUSED,
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", listener)
}
