package testbed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft.dev/weft/test/e2e/traffic"
)

// switchNamespace is the network namespace of the local cluster with the bridge that joins its nodes: what one node sends
// to the other passes it, and what stays on a node does not.
const switchNamespace = "/run/netns/weft-switch"

// wireBuffer is how much the kernel keeps for the one who reads the wire: everything that all tests send within a moment.
const wireBuffer = 64 << 20

// Wire reads what the nodes of the local cluster send to each other, until it is told to stop. What the tests command
// their pods, in plain text, is none of it.
type Wire struct {
	file   *os.File
	marker []byte
	done   chan struct{}
	found  WireFound
	err    error
}

// WireFound is what was on the wire.
type WireFound struct {
	// Segments is how many TCP segments there were from and to each port at an address.
	Segments map[netip.AddrPort]int
	// Marked are the segments with the marker, as "source > destination".
	Marked []string
	// Lost is how many packets came too quickly to be looked at.
	Lost int
}

// ListenOnWire begins to look for a marker on the wire.
func ListenOnWire(t testing.TB, marker string) *Wire {
	t.Helper()
	file, err := packetSocket()
	if err != nil {
		t.Fatalf("listen on the wire: %v", err)
	}
	w := &Wire{file: file, marker: []byte(marker), done: make(chan struct{}), found: WireFound{Segments: map[netip.AddrPort]int{}}}
	go w.read()
	t.Cleanup(func() { _ = file.Close(); <-w.done })
	return w
}

// packetSocket opens a socket that receives all packets in the namespace of the bridge. A thread that has been there is
// not used again.
func packetSocket() (*os.File, error) {
	type opened struct {
		file *os.File
		err  error
	}
	result := make(chan opened)
	go func() {
		runtime.LockOSThread()
		file, err := openPacketSocket()
		result <- opened{file, err}
	}()
	o := <-result
	return o.file, o.err
}

func openPacketSocket() (*os.File, error) {
	namespace, err := os.Open(switchNamespace)
	if err != nil {
		return nil, err
	}
	defer func() { _ = namespace.Close() }()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", switchNamespace, err)
	}
	everything := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(everything))
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wireBuffer); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("buffer of the packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "wire"), nil
}

// read looks at packets until the socket is closed, or its deadline has come and nothing is left that came before.
func (w *Wire) read() {
	defer close(w.done)
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.err = err
		return
	}
	packet := make([]byte, 1<<17)
	take := func(fd uintptr) error {
		n, err := unix.Read(int(fd), packet)
		if err == nil {
			w.look(packet[:n])
		}
		return err
	}
	for w.err == nil {
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			failed = take(fd)
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			if w.err = raw.Control(func(fd uintptr) {
				for failed = nil; failed == nil; {
					failed = take(fd)
				}
			}); w.err == nil && !errors.Is(failed, unix.EAGAIN) {
				w.err = failed
			}
			return
		default:
			w.err = errors.Join(err, failed)
		}
	}
}

func (w *Wire) look(packet []byte) {
	from, to, payload, ok := segment(packet)
	if !ok || from.Port() == traffic.ControlPort || to.Port() == traffic.ControlPort {
		return
	}
	w.found.Segments[from]++
	w.found.Segments[to]++
	if bytes.Contains(payload, w.marker) {
		w.found.Marked = append(w.found.Marked, fmt.Sprintf("%s > %s", from, to))
	}
}

// segment takes a TCP segment out of an IP packet.
func segment(packet []byte) (from, to netip.AddrPort, payload []byte, ok bool) {
	var source, destination netip.Addr
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		length := int(packet[0]&0xf) * 4
		if packet[9] != unix.IPPROTO_TCP || length > len(packet) {
			return from, to, nil, false
		}
		source, destination = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		packet = packet[length:]
	case len(packet) >= 40 && packet[0]>>4 == 6:
		if packet[6] != unix.IPPROTO_TCP {
			return from, to, nil, false
		}
		source, destination = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		packet = packet[40:]
	default:
		return from, to, nil, false
	}
	if len(packet) < 20 || int(packet[12]>>4)*4 > len(packet) {
		return from, to, nil, false
	}
	from = netip.AddrPortFrom(source, binary.BigEndian.Uint16(packet))
	to = netip.AddrPortFrom(destination, binary.BigEndian.Uint16(packet[2:]))
	return from, to, packet[int(packet[12]>>4)*4:], true
}

// Stop ends it and returns what was on the wire until then.
func (w *Wire) Stop(t testing.TB) WireFound {
	t.Helper()
	if err := w.file.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	<-w.done
	if w.err != nil {
		t.Fatalf("read the wire: %v", w.err)
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		var s *unix.TpacketStats
		if s, failed = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); failed == nil {
			w.found.Lost = int(s.Drops)
		}
	}); err != nil || failed != nil {
		t.Fatalf("packet socket: %v", errors.Join(err, failed))
	}
	return w.found
}
