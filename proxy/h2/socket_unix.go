//go:build unix

package h2

import "syscall"

// writesAtOnce tells that a socket can be written to without waiting.
const writesAtOnce = true

func writeSocket(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
