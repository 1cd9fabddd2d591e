package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// unanswered is for how many seconds at most, by the kernel's defaults, an established connection is tracked
// while something that was sent has not been acknowledged (nf_conntrack_tcp_timeout_unacknowledged and
// nf_conntrack_tcp_timeout_max_retrans). Without that it is days.
const unanswered = 300

// Forget deletes the connection tracking entries that translate to one of the addresses and returns
// how many there were. What the pod sends next on such a connection is translated anew: the
// retransmission of an unanswered first packet reaches a proxy that lives, and an established
// connection is reset.
//
// It is for proxies that are gone for certain. What one that lives sends on a forgotten connection is taken
// for a stranger's and reset, and a pod that waits for it never learns of that.
func (n *Netns) Forget(proxies []netip.Addr) (int, error) {
	return n.forget(proxies, func(*netlink.ConntrackFlow) bool { return true })
}

// ForgetUnanswered is Forget for proxies that seem to be gone: it leaves alone the connections on which the
// proxy has acknowledged everything, so that one which lives after all can go on answering. A connection
// that it left alone is unanswered as soon as the pod sends on it.
func (n *Netns) ForgetUnanswered(proxies []netip.Addr) (int, error) {
	return n.forget(proxies, func(flow *netlink.ConntrackFlow) bool {
		tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
		if !ok {
			return false
		}
		return tcp.State == nl.TCP_CONNTRACK_SYN_SENT || tcp.State == nl.TCP_CONNTRACK_ESTABLISHED && flow.TimeOut <= unanswered
	})
}

func (n *Netns) forget(proxies []netip.Addr, match func(*netlink.ConntrackFlow) bool) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	handle, err := n.handle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer handle.Close()
	filter := translated{to: map[netip.Addr]bool{}, match: match}
	for _, proxy := range proxies {
		filter.to[proxy.Unmap()] = true
	}
	var deleted uint
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		count, familyErr := handle.ConntrackDeleteFilters(netlink.ConntrackTable, f, filter)
		deleted += count
		err = errors.Join(err, familyErr)
	}
	if err != nil {
		return int(deleted), fmt.Errorf("delete tracked connections: %w", err)
	}
	return int(deleted), nil
}

// translated selects, among connections to some other address that were sent to one of its own, those that
// match.
type translated struct {
	to    map[netip.Addr]bool
	match func(*netlink.ConntrackFlow) bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (t translated) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	meant, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok || flow.Forward.Protocol != unix.IPPROTO_TCP {
		return false
	}
	answering, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && answering != meant && t.to[answering.Unmap()] && t.match(flow)
}
