//go:build !linux

package upstream

import (
	"net"
	"time"
)

// tcpCounts is known only on Linux.
func tcpCounts(net.Conn) (tcpCounters, bool) { return tcpCounters{}, false }

// setUserTimeout exists only on Linux.
func setUserTimeout(net.Conn, time.Duration) {}
