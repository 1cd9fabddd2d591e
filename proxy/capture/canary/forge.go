package canary

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	device = "eth0"
	// protocolTest is for experiments (RFC 3692); nobody answers it.
	protocolTest = 253
	// etherTypeTest is for local experiments (IEEE 802).
	etherTypeTest = 0x88b5
)

// marker stands before the name of a frame in its payload.
const marker = "weft-canary:"

// genuine is the name of the frame that may leave.
const genuine = "genuine"

// frame is one Ethernet frame to send.
type frame struct {
	name string
	data []byte
	// protocol is what the sender tells the kernel that the frame is.
	protocol uint16
}

// proveGuarded sends frames with forged sources in every disguise and a genuine one after them, and
// sees only the genuine one arrive. Before that it sees them arrive without the guard, so that nothing
// else can be why they do not.
func (p *pair) proveGuarded(ctx context.Context) error {
	link, err := p.openLink()
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	defer link.close()
	for _, a := range p.families {
		arrived, err := link.forge(ctx, a)
		if err != nil {
			return fmt.Errorf("guard over %s: %w", a.family, err)
		}
		if len(arrived) == 0 {
			return fmt.Errorf("guard over %s: forged frames do not arrive without the guard either", a.family)
		}
	}
	var own []netip.Addr
	for _, a := range p.families {
		own = append(own, a.caller, a.foreign)
	}
	if err := p.guard(p.caller, own); err != nil {
		return err
	}
	for _, a := range p.families {
		arrived, err := link.forge(ctx, a)
		if err != nil {
			return fmt.Errorf("guard over %s: %w", a.family, err)
		}
		if len(arrived) > 0 {
			return fmt.Errorf("guard over %s: frames with a forged source left: %q", a.family, arrived)
		}
	}
	return nil
}

// link is a packet socket in each of the two namespaces, by which frames are sent and seen as they
// are on the wire.
type link struct {
	sender, receiver int
	index            int
	source, target   net.HardwareAddr
}

func (p *pair) openLink() (*link, error) {
	l := &link{sender: -1, receiver: -1}
	err := p.caller.Do(func() error {
		own, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
		l.index, l.source = own.Index, own.HardwareAddr
		l.sender, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	err = p.server.Do(func() error {
		own, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
		l.target = own.HardwareAddr
		l.receiver, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		l.close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	timeout := unix.NsecToTimeval(step.Nanoseconds())
	if err := unix.SetsockoptTimeval(l.receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		l.close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return l, nil
}

func (l *link) close() {
	for _, socket := range []int{l.sender, l.receiver} {
		if socket >= 0 {
			_ = unix.Close(socket)
		}
	}
}

// forge sends all frames of a family and returns the names of those that arrived before the genuine
// one, which is sent last: frames do not overtake each other.
func (l *link) forge(ctx context.Context, a addressing) ([]string, error) {
	for _, f := range l.frames(a) {
		to := unix.SockaddrLinklayer{Ifindex: l.index, Protocol: networkOrder(f.protocol), Halen: uint8(len(l.target))}
		copy(to.Addr[:], l.target)
		// A guard may tell the sender that it drops the frame.
		if err := unix.Sendto(l.sender, f.data, 0, &to); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return nil, fmt.Errorf("send the %s frame: %w", f.name, err)
		}
	}
	var arrived []string
	buffer := make([]byte, 2048)
	for end := time.Now().Add(step); time.Now().Before(end) && ctx.Err() == nil; {
		n, from, err := unix.Recvfrom(l.receiver, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			break
		}
		if sent, ok := from.(*unix.SockaddrLinklayer); ok && sent.Pkttype == unix.PACKET_OUTGOING {
			// The answer of this end quotes what it has received.
			continue
		}
		_, name, ours := bytes.Cut(buffer[:n], []byte(marker))
		switch {
		case ours && string(name) == genuine:
			return arrived, nil
		case ours && !slices.Contains(arrived, string(name)):
			arrived = append(arrived, string(name))
		}
	}
	return nil, errors.New("the genuine frame did not arrive")
}

// frames returns one frame for each way to forge a source, and the genuine one.
func (l *link) frames(a addressing) []frame {
	etherType := uint16(unix.ETH_P_IP)
	if a.forged.Is6() {
		etherType = unix.ETH_P_IPV6
	}
	forged, tag := packet(a.forged, a.server), []byte{0, 0}
	frames := []frame{
		{"forged", l.ethernet(etherType, forged("forged")), etherType},
		// The kernel believes the sender about the protocol; the receiver reads the frame.
		{"disguised", l.ethernet(etherType, forged("disguised")), etherTypeTest},
		// A receiver takes the tag of VLAN 0 off (IEEE 802.1Q: priority only).
		{"tagged", l.ethernet(unix.ETH_P_8021Q, slices.Concat(tag, be16(etherType), forged("tagged"))), unix.ETH_P_8021Q},
	}
	if a.forged.Is4() {
		frames = append(frames, frame{"claimed", l.ethernet(unix.ETH_P_ARP, l.claim(a, "claimed")), unix.ETH_P_ARP})
	}
	return append(frames, frame{genuine, l.ethernet(etherType, packet(a.caller, a.server)(genuine)), etherType})
}

func (l *link) ethernet(etherType uint16, payload []byte) []byte {
	return slices.Concat(l.target, l.source, be16(etherType), payload)
}

// claim is an ARP request (RFC 826) that claims the forged address.
func (l *link) claim(a addressing, name string) []byte {
	return slices.Concat(
		be16(1), be16(unix.ETH_P_IP), []byte{6, 4}, be16(1),
		l.source, a.forged.AsSlice(), make([]byte, 6), a.server.AsSlice(), []byte(marker+name))
}

// packet returns what makes IP packets from one address to another that carry a frame's name.
func packet(from, to netip.Addr) func(name string) []byte {
	return func(name string) []byte {
		payload := []byte(marker + name)
		if from.Is6() {
			header := slices.Concat([]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{protocolTest, 64})
			return slices.Concat(header, from.AsSlice(), to.AsSlice(), payload)
		}
		header := slices.Concat([]byte{0x45, 0}, be16(uint16(20+len(payload))), make([]byte, 4),
			[]byte{64, protocolTest, 0, 0}, from.AsSlice(), to.AsSlice())
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		return append(header, payload...)
	}
}

// checksum is the one of the IPv4 header (RFC 1071).
func checksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// networkOrder returns v as packet sockets want it: in network order in memory.
func networkOrder(v uint16) uint16 { return binary.NativeEndian.Uint16(be16(v)) }
