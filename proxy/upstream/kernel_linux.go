package upstream

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpCounts returns how many bytes the peer's kernel has acknowledged on a TCP connection, and how many
// positions of the peer's stream have arrived of which the program has not yet been given unread bytes.
// Both count from some fixed number (RFC 4898); the end of the stream (FIN) takes one position.
func tcpCounts(c net.Conn) (counts tcpCounters, ok bool) {
	var info *unix.TCPInfo
	var unread int
	ok = control(c, func(fd int) (err error) {
		if info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			return err
		}
		unread, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
		return err
	})
	if !ok {
		return tcpCounters{}, false
	}
	return tcpCounters{acknowledged: info.Bytes_acked, received: info.Bytes_received - uint64(unread)}, true
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
