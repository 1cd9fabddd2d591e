//go:build unix

package h1

import "syscall"

// polls tells that a socket can be asked what has come without waiting.
const polls = true

func readSocket(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

func writeSocket(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }

// peekSocket reads without taking anything from the socket, and does not wait.
func peekSocket(fd uintptr, b []byte) (int, error) {
	n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n, err
}
