package tcp

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lastReceived asks the kernel when a TCP connection last received data. It fails for anything else.
func lastReceived(conn syscall.Conn) (time.Time, bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return time.Time{}, false
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil || infoErr != nil {
		return time.Time{}, false
	}
	return time.Now().Add(-time.Duration(info.Last_data_recv) * time.Millisecond), true
}
