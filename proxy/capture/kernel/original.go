package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// originalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h and IP6T_SO_ORIGINAL_DST of
// linux/netfilter_ipv6/ip6_tables.h.
const originalDst = 80

// OriginalDestination returns where an accepted connection was sent before the rules of this
// namespace redirected it. Its port is the destination number.
func OriginalDestination(conn *net.TCPConn) (netip.AddrPort, error) {
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	level := unix.SOL_IP
	if local.Is6() {
		level = unix.SOL_IPV6
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	// The answer is a socket address, and IPv6MTUInfo begins with one of the longer kind.
	var info *unix.IPv6MTUInfo
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		info, optionErr = unix.GetsockoptIPv6MTUInfo(int(fd), level, originalDst)
	})
	if err == nil {
		err = optionErr
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, info.Addr.Port))
	if local.Is6() {
		return netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), port), nil
	}
	// In an IPv4 socket address the address stands where IPv6 has the flow.
	address := [4]byte(binary.NativeEndian.AppendUint32(nil, info.Addr.Flowinfo))
	return netip.AddrPortFrom(netip.AddrFrom4(address), port), nil
}
