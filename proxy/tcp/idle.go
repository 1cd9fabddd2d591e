package tcp

import (
	"io"
	"sync/atomic"
	"syscall"
	"time"
)

// watch returns readers of both connections and a function that tells when a byte last arrived from
// either. For TCP the kernel is asked, so that the copy can stay in the kernel (splice); for anything else
// the reader takes the time.
func watch(client, backend io.ReadWriteCloser) (fromClient, fromBackend io.Reader, lastByte func() time.Time) {
	fromClient, lastClient := watchOne(client)
	fromBackend, lastBackend := watchOne(backend)
	return fromClient, fromBackend, func() time.Time {
		a, b := lastClient(), lastBackend()
		if a.After(b) {
			return a
		}
		return b
	}
}

func watchOne(c io.ReadWriteCloser) (io.Reader, func() time.Time) {
	start := time.Now()
	if conn, ok := c.(syscall.Conn); ok {
		if _, known := lastReceived(conn); known {
			return c, func() time.Time {
				// The connection may be older than the relay.
				if last, ok := lastReceived(conn); ok && last.After(start) {
					return last
				}
				return start
			}
		}
	}
	timed := &timedReader{Reader: c, start: start}
	return timed, func() time.Time { return start.Add(time.Duration(timed.last.Load())) }
}

// timedReader remembers when it last returned bytes, as the monotonic time since start.
type timedReader struct {
	io.Reader
	start time.Time
	last  atomic.Int64
}

func (r *timedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.last.Store(int64(time.Since(r.start)))
	}
	return n, err
}
