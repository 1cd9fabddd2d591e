package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/rules"
)

// States of TCP sockets (linux/tcp_states.h) that are no connection.
const (
	tcpTimeWait = 6
	tcpClose    = 7
	tcpListen   = 10
)

// tracked is for how long, in seconds, a connection that connection tracking is told of may be silent: as
// long as the kernel's default for one that it has seen itself (nf_conntrack_tcp_timeout_established).
const trackedSilence = 432000

// session is a TCP connection of the namespace at a port where its peer does not get in.
type session struct {
	socket      *netlink.Socket
	local, peer netip.AddrPort
	direction   direction
}

// direction is who has opened a connection, as far as connection tracking says.
type direction int

const (
	unknown direction = iota
	fromPeer
	fromPod
)

// recordDirections makes connection tracking know who has opened the connections that it has never seen: it
// may have been off until now, and takes the first packet that it sees for the first one of all. Where
// nobody listens at the port of a connection, the pod has opened it.
func (n *Netns) recordDirections(want rules.Tables) error {
	sessions, listening, err := n.sessions(want)
	if err != nil || len(sessions) == 0 {
		return err
	}
	handle, err := n.handle(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer handle.Close()
	for _, s := range sessions {
		if s.direction != unknown {
			continue
		}
		from, to := s.local, s.peer
		if listening[s.local.Port()] {
			from, to = s.peer, s.local
		}
		// Somebody may have been faster: the kernel itself, now that it tracks.
		if err := handle.ConntrackCreate(netlink.ConntrackTable, inetFamily(from.Addr()), flow(from, to)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("track %v to %v: %w", from, to, err)
		}
	}
	return nil
}

// endSessions destroys the sockets of connections that a peer has opened which does not get in any more.
// Where the kernel cannot (it lacks CONFIG_INET_DIAG_DESTROY), the next packet of the peer is answered with
// a reset all the same.
//
// It does nothing if nothing has closed since it succeeded last.
func (n *Netns) endSessions(want rules.Tables) error {
	if !n.ending {
		return nil
	}
	sessions, _, err := n.sessions(want)
	if err != nil {
		return err
	}
	var diag *mdlayher.Conn
	for _, s := range sessions {
		if s.direction != fromPeer {
			continue
		}
		if diag == nil {
			if diag, err = mdlayher.Dial(unix.NETLINK_SOCK_DIAG, &mdlayher.Config{NetNS: int(n.file.Fd())}); err != nil {
				return fmt.Errorf("socket diagnosis: %w", err)
			}
			defer func() { _ = diag.Close() }()
		}
		err := n.destroy(diag, s.socket)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			continue
		case err != nil && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("end connection from %v to port %d: %w", s.peer, s.local.Port(), err)
		}
	}
	n.ending = false
	return nil
}

func destroySocket(diag *mdlayher.Conn, socket *netlink.Socket) error {
	_, err := diag.Execute(mdlayher.Message{
		Header: mdlayher.Header{Type: nl.SOCK_DESTROY, Flags: mdlayher.Request | mdlayher.Acknowledge},
		Data:   destroyRequest(socket),
	})
	return err
}

// sessions lists the connections at strict ports to peers that do not get in, and the ports at which
// somebody listens.
func (n *Netns) sessions(want rules.Tables) (out []session, listening map[uint16]bool, err error) {
	sockets, err := n.sockets()
	if err != nil {
		return nil, nil, err
	}
	listening = map[uint16]bool{}
	for _, socket := range sockets {
		local, peer := endpoint(socket.ID.Source, socket.ID.SourcePort), endpoint(socket.ID.Destination, socket.ID.DestinationPort)
		switch socket.State {
		case tcpListen:
			listening[local.Port()] = true
		case tcpTimeWait, tcpClose:
		default:
			if !peer.Addr().IsLoopback() && want.Refuses(local.Port(), peer.Addr()) {
				out = append(out, session{socket: socket, local: local, peer: peer})
			}
		}
	}
	if len(out) == 0 {
		return nil, listening, nil
	}
	known, err := n.directions()
	if err != nil {
		return nil, nil, err
	}
	for i, s := range out {
		out[i].direction = known[connection{s.local, s.peer}]
	}
	return out, listening, nil
}

func (n *Netns) sockets() ([]*netlink.Socket, error) {
	handle, err := n.handle(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	var out []*netlink.Socket
	// An IPv6 socket may hold a connection over IPv4.
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := handle.SocketDiagTCP(f)
		if errors.Is(err, unix.ENOENT) {
			// A kernel without CONFIG_INET_DIAG.
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		out = append(out, sockets...)
	}
	return out, nil
}

// connection is one as a socket of the namespace has it.
type connection struct{ local, peer netip.AddrPort }

// directions returns who has opened the connections that are tracked.
func (n *Netns) directions() (map[connection]direction, error) {
	handle, err := n.handle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	out := map[connection]direction{}
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := handle.ConntrackTableList(netlink.ConntrackTable, f)
		if err != nil {
			return nil, fmt.Errorf("list tracked connections: %w", err)
		}
		for _, flow := range flows {
			if flow.Forward.Protocol != unix.IPPROTO_TCP {
				continue
			}
			// A socket has what the opener meant, and what the one opened to has really got.
			out[connection{
				endpoint(flow.Forward.SrcIP, flow.Forward.SrcPort), endpoint(flow.Forward.DstIP, flow.Forward.DstPort),
			}] = fromPod
			out[connection{
				endpoint(flow.Reverse.SrcIP, flow.Reverse.SrcPort), endpoint(flow.Reverse.DstIP, flow.Reverse.DstPort),
			}] = fromPeer
		}
	}
	return out, nil
}

// flow is an established connection as connection tracking has it.
func flow(from, to netip.AddrPort) *netlink.ConntrackFlow {
	return &netlink.ConntrackFlow{
		FamilyType: uint8(inetFamily(from.Addr())), TimeOut: trackedSilence,
		Forward: tuple(from, to), Reverse: tuple(to, from),
		ProtoInfo: &netlink.ProtoInfoTCP{State: nl.TCP_CONNTRACK_ESTABLISHED},
	}
}

func tuple(from, to netip.AddrPort) netlink.IPTuple {
	return netlink.IPTuple{
		SrcIP: from.Addr().AsSlice(), SrcPort: from.Port(), DstIP: to.Addr().AsSlice(), DstPort: to.Port(),
		Protocol: unix.IPPROTO_TCP,
	}
}

func inetFamily(address netip.Addr) netlink.InetFamily {
	if address.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func endpoint(address net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(address)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// destroyRequest names one socket and no other, by its cookie (struct inet_diag_req_v2 of
// linux/inet_diag.h).
func destroyRequest(socket *netlink.Socket) []byte {
	id := socket.ID
	out := []byte{socket.Family, unix.IPPROTO_TCP, 0, 0, 0xff, 0xff, 0xff, 0xff}
	out = binary.BigEndian.AppendUint16(out, id.SourcePort)
	out = binary.BigEndian.AppendUint16(out, id.DestinationPort)
	for _, address := range []net.IP{id.Source, id.Destination} {
		if socket.Family == unix.AF_INET {
			address = append(append(net.IP(nil), address.To4()...), make([]byte, 12)...)
		}
		out = append(out, address...)
	}
	out = binary.NativeEndian.AppendUint32(out, id.Interface)
	out = binary.NativeEndian.AppendUint32(out, id.Cookie[0])
	return binary.NativeEndian.AppendUint32(out, id.Cookie[1])
}
