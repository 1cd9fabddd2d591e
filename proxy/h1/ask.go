package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	phttp "weft.dev/weft/proxy/http"
)

// Meter is a connection that counts what goes over it, and that wants to know of what goes past its methods.
type Meter interface {
	// Moved tells that so many bytes were read and written, and how that has failed.
	Moved(read, written int, err error)
}

// ErrNotClean tells that a connection must not be used again: it has ended, or the backend has sent bytes unasked, which
// the next request must not be answered with. Nothing was sent.
var ErrNotClean = errors.New("the connection has ended, or the backend has sent bytes unasked")

// asker sends a request on a connection that was idle, and waits for the first bytes of the answer, in one wait for the
// poller: that has been made ready before it is looked whether the connection is clean, so that it tells of everything
// that comes from then on. Sending and reading one after the other would try to read in vain first.
type asker struct {
	raw   syscall.RawConn
	meter Meter
	// try is step, made once.
	try func(fd uintptr) bool

	// request is what is sent, in memory, and asked tells that it has been tried; sent is how much of it was.
	request []byte
	memory  *[]byte
	asked   bool
	sent    int
	// dirty tells that something has come before.
	dirty bool
	// answer is what has come, n bytes.
	answer *[]byte
	n      int
	err    error
}

// init prepares c and tells whether that is possible.
func (a *asker) init(c net.Conn) bool {
	if a.try == nil {
		a.try = a.step
		if socket, ok := c.(syscall.Conn); ok && polls {
			a.raw, _ = socket.SyscallConn()
		}
		a.meter, _ = c.(Meter)
	}
	return a.raw != nil && a.meter != nil
}

// step is called when the poller is ready to tell of what comes, and when something has.
func (a *asker) step(fd uintptr) bool {
	if !a.asked {
		a.asked = true
		var b [1]byte
		if _, err := again(func() (int, error) { return peekSocket(fd, b[:]) }); !errors.Is(err, syscall.EAGAIN) {
			a.dirty = true
			return true
		}
		a.sent, a.err = again(func() (int, error) { return writeSocket(fd, a.request) })
		a.sent = max(a.sent, 0)
		if a.err != nil || a.sent < len(a.request) {
			return true
		}
		putBuffer(a.memory)
		a.memory, a.request = nil, nil
		return false
	}
	a.answer = getBuffer(1)
	a.n, a.err = again(func() (int, error) { return readSocket(fd, *a.answer) })
	if a.n > 0 {
		return true
	}
	putBuffer(a.answer)
	a.answer, a.n = nil, 0
	if a.err == nil {
		a.err = io.EOF
	}
	return !errors.Is(a.err, syscall.EAGAIN)
}

// again calls a function of a socket until no signal has interrupted it.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// Ask is Clean, Write with the whole body, and the wait for the first bytes of the answer.
func (c *Client) Ask(r *phttp.Request, length int64, body []byte) error {
	if c.failed != nil || len(c.source.buffered()) > 0 {
		return ErrNotClean
	}
	a := &c.ask
	if !a.init(c.conn) {
		if !c.Clean() {
			return ErrNotClean
		}
		return c.Write(r, length, false, body, true)
	}
	c.source.release()
	a.memory = getBuffer(roomForHead + len(body))
	a.request = c.appendRequest((*a.memory)[:0], r, length, false, body, true)
	a.asked, a.sent, a.dirty, a.n, a.err = false, 0, false, 0, nil
	err := a.raw.Read(a.try)
	return c.asked(err)
}

// asked takes in what asking has come to.
func (c *Client) asked(err error) error {
	a := &c.ask
	defer func() {
		if a.memory != nil {
			putBuffer(a.memory)
		}
		a.memory, a.request, a.answer = nil, nil, nil
	}()
	switch {
	case err != nil: // it was interrupted
	case a.dirty:
		return ErrNotClean
	case a.n > 0:
		c.source.memory, c.source.written = a.answer, a.n
		a.meter.Moved(a.n, a.sent, nil)
		return nil
	case a.request != nil && (a.err == nil || errors.Is(a.err, syscall.EAGAIN)):
		// The socket takes the rest later.
		a.meter.Moved(0, a.sent, nil)
		_, err = c.conn.Write(a.request[a.sent:])
		return c.fail(err)
	case errors.Is(a.err, io.EOF):
		err = io.EOF
	case a.request != nil:
		err = os.NewSyscallError("write", a.err)
	default:
		err = os.NewSyscallError("read", a.err)
	}
	a.meter.Moved(0, a.sent, err)
	return c.fail(err)
}
