//go:build !linux

package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// originalDestination is known only on Linux, where proxies capture.
func originalDestination(syscall.Conn, net.Addr) (netip.AddrPort, error) {
	return netip.AddrPort{}, fmt.Errorf("original destination: %w", errors.ErrUnsupported)
}
