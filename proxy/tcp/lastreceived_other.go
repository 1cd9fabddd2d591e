//go:build !linux

package tcp

import (
	"syscall"
	"time"
)

// lastReceived is known only on Linux.
func lastReceived(syscall.Conn) (time.Time, bool) { return time.Time{}, false }
