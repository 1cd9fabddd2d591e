package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// idleReader waits for the first bytes on a connection without holding memory for them. The zero value is
// ready.
type idleReader struct {
	raw    syscall.RawConn
	try    func(fd uintptr) bool
	memory *[]byte
	n      int
	err    error
}

// wait returns memory with the first bytes, n of them; with none an error.
func (r *idleReader) wait(c net.Conn) (memory *[]byte, n int, err error) {
	if r.try == nil {
		r.try = r.receive
		if socket, ok := c.(syscall.Conn); ok && polls {
			// Without it an ordinary read does the same with memory held.
			r.raw, _ = socket.SyscallConn()
		}
	}
	if r.raw == nil {
		memory = getBuffer(1)
		if n, err = c.Read(*memory); n == 0 {
			putBuffer(memory)
		}
		return memory, n, err
	}
	err = r.raw.Read(r.try)
	memory, r.memory = r.memory, nil
	if err == nil {
		err = r.err
	}
	if err == nil && r.n == 0 {
		err = io.EOF
	}
	return memory, r.n, err
}

// receive tries to read before it lets the poller wait: the poller tells of an arrival once, and that may have
// been before (the reason why RawConn.Read calls it first).
func (r *idleReader) receive(fd uintptr) bool {
	r.memory = getBuffer(1)
	for {
		r.n, r.err = readSocket(fd, *r.memory)
		if !errors.Is(r.err, syscall.EINTR) {
			break
		}
	}
	if r.n > 0 {
		r.err = nil
		return true
	}
	r.n = 0
	putBuffer(r.memory)
	r.memory = nil
	if errors.Is(r.err, syscall.EAGAIN) {
		return false
	}
	if r.err != nil {
		r.err = os.NewSyscallError("read", r.err)
	}
	return true
}

// peeker looks at a connection without taking anything from it. The zero value is ready after init.
type peeker struct {
	raw syscall.RawConn
	// wait and look are ended and pending, made once.
	wait, look func(fd uintptr) bool
	n          int
	err        error
}

// init prepares looking at c and tells whether that is possible.
func (p *peeker) init(c net.Conn) bool {
	if p.raw == nil {
		socket, ok := c.(syscall.Conn)
		if !ok || !polls {
			return false
		}
		raw, err := socket.SyscallConn()
		if err != nil {
			return false
		}
		p.raw = raw
		p.wait = func(fd uintptr) bool { p.peek(fd); return !errors.Is(p.err, syscall.EAGAIN) }
		p.look = func(fd uintptr) bool { p.peek(fd); return true }
	}
	return true
}

func (p *peeker) peek(fd uintptr) {
	var b [1]byte
	for {
		p.n, p.err = peekSocket(fd, b[:])
		if !errors.Is(p.err, syscall.EINTR) {
			return
		}
	}
}

// ended waits until something comes, and tells whether it is the end of the connection. It is false if the
// wait was ended by a deadline.
func (p *peeker) ended() bool {
	if err := p.raw.Read(p.wait); err != nil {
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	return p.err != nil || p.n == 0
}

// quiet tells whether the connection is open and nothing has come.
func (p *peeker) quiet() bool {
	return p.raw.Read(p.look) == nil && errors.Is(p.err, syscall.EAGAIN)
}
