//go:build !linux

package upstream

import (
	"net"
	"time"
)

// bytesAcknowledged is known only on Linux.
func bytesAcknowledged(net.Conn) (uint64, bool) { return 0, false }

// setUserTimeout exists only on Linux.
func setUserTimeout(net.Conn, time.Duration) {}
