package upstream

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bytesAcknowledged returns how many bytes the peer's kernel has acknowledged on a TCP connection,
// counted from some fixed number (RFC 4898 tcpEStatsAppHCThruOctetsAcked).
func bytesAcknowledged(c net.Conn) (uint64, bool) {
	var info *unix.TCPInfo
	ok := control(c, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	if !ok {
		return 0, false
	}
	return info.Bytes_acked, true
}

// setUserTimeout makes the kernel end a connection whose peer acknowledges nothing, or takes nothing, for
// so long. Without it a request to a host that is gone would wait for about a quarter of an hour.
func setUserTimeout(c net.Conn, timeout time.Duration) {
	control(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
	})
}

// control runs f on the socket and tells whether it succeeded; a connection that is not a socket has none.
func control(c net.Conn, f func(fd int) error) bool {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	var failure error
	err = raw.Control(func(fd uintptr) { failure = f(int(fd)) })
	return err == nil && failure == nil
}
