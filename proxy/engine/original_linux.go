package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// originalDestination returns the address to which the client connected before netfilter redirected
// the connection here. The error is errNotRedirected if nothing redirected it.
//
// Both socket options have the number 80: SO_ORIGINAL_DST (linux/netfilter_ipv4.h) and
// IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv6/ip6_tables.h). unix has no getter for a socket address,
// so the options are read through getters whose buffers are large enough: an IPv6Mreq begins with the
// 16 bytes of a sockaddr_in, an IPv6MTUInfo with a sockaddr_in6.
func originalDestination(conn syscall.Conn, client net.Addr) (netip.AddrPort, error) {
	const originalDst = 80
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	tcp, ok := client.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("original destination: %s is no TCP address", client)
	}
	var original netip.AddrPort
	var optErr error
	err = raw.Control(func(fd uintptr) {
		// A dual-stack socket serves IPv4 clients too; theirs are in the IPv4 tables.
		if tcp.AddrPort().Addr().Unmap().Is4() {
			var mreq *unix.IPv6Mreq
			if mreq, optErr = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, originalDst); optErr == nil {
				port := binary.BigEndian.Uint16(mreq.Multiaddr[2:4])
				original = netip.AddrPortFrom(netip.AddrFrom4([4]byte(mreq.Multiaddr[4:8])), port)
			}
			return
		}
		var info *unix.IPv6MTUInfo
		if info, optErr = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, originalDst); optErr == nil {
			// The port is in network order whatever the machine's order is.
			var port [2]byte
			binary.NativeEndian.PutUint16(port[:], info.Addr.Port)
			original = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), binary.BigEndian.Uint16(port[:]))
		}
	})
	if err == nil {
		err = optErr
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT):
		return netip.AddrPort{}, errNotRedirected
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return original, nil
}
