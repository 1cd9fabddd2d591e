package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Forget deletes the connection tracking entries that translate to one of the addresses and returns
// how many there were. What is sent next on such a connection is translated anew: the
// retransmission of an unanswered first packet reaches a proxy that lives, and an established
// connection is reset instead of hanging.
func (n *Netns) Forget(proxies []netip.Addr) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	handle, err := n.handle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer handle.Close()
	dead := map[netip.Addr]bool{}
	for _, proxy := range proxies {
		dead[proxy.Unmap()] = true
	}
	var deleted uint
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		count, familyErr := handle.ConntrackDeleteFilters(netlink.ConntrackTable, f, translated(dead))
		deleted += count
		err = errors.Join(err, familyErr)
	}
	if err != nil {
		return int(deleted), fmt.Errorf("delete tracked connections: %w", err)
	}
	return int(deleted), nil
}

// translated selects connections to some other address that were sent to one of its own.
type translated map[netip.Addr]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (t translated) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	meant, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok || flow.Forward.Protocol != unix.IPPROTO_TCP {
		return false
	}
	answering, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && answering != meant && t[answering.Unmap()]
}
