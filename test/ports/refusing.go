// Package ports gives tests ports that stay what they are.
package ports

import (
	"net/netip"
	"syscall"
	"testing"
)

// Refusing returns an address on 127.0.0.1 that refuses connections until the test ends. A socket that is bound and does
// not listen holds its port: a listener that was closed leaves the port to whoever asks next, and that is, with packages
// tested side by side, now and then a server that answers.
func Refusing(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("socket: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatalf("bind: %v", err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatalf("name of the socket: %v", err)
	}
	at := bound.(*syscall.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)) //nolint:gosec // It is a port.
}
