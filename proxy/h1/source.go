package h1

import (
	"io"
	"net"
)

// source is the receiving side of a connection: bytes that have come and are not used yet, then the
// connection. One goroutine uses it at a time.
type source struct {
	conn net.Conn
	idle idleReader
	// memory is what buf lies in; nil while nothing is held.
	memory *[]byte
	// The bytes from read to written are not used yet.
	read, written int
}

func (s *source) buffered() []byte {
	if s.memory == nil {
		return nil
	}
	return (*s.memory)[s.read:s.written]
}

// use takes n bytes from the front.
func (s *source) use(n int) {
	s.read += n
	if s.read == s.written {
		s.read, s.written = 0, 0
	}
}

// fill waits for more bytes. most is how many may be buffered; the caller has checked that there are less.
func (s *source) fill(most int) error {
	if s.memory == nil {
		s.memory = getBuffer(1)
	}
	if s.written == len(*s.memory) {
		s.makeRoom(most)
	}
	n, err := s.conn.Read((*s.memory)[s.written:])
	s.written += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// makeRoom moves the bytes to the front, into more memory if they fill it.
func (s *source) makeRoom(most int) {
	bytes := s.buffered()
	if s.read > 0 {
		s.read, s.written = 0, copy(*s.memory, bytes)
		return
	}
	bigger := getBuffer(max(min(2*len(bytes), most), len(bytes)+1))
	s.written = copy(*bigger, bytes)
	putBuffer(s.memory)
	s.memory = bigger
}

// fillIdle is fill for a connection that may wait long. It holds no memory meanwhile.
func (s *source) fillIdle() error {
	s.release()
	memory, n, err := s.idle.wait(s.conn)
	if n > 0 {
		s.memory, s.written = memory, n
		return nil
	}
	return err
}

// release gives memory back that holds nothing.
func (s *source) release() {
	if s.memory != nil && s.read == s.written {
		putBuffer(s.memory)
		s.memory, s.read, s.written = nil, 0, 0
	}
}

// drop gives memory back whatever it holds.
func (s *source) drop() {
	s.read, s.written = 0, 0
	s.release()
}

// head waits for a complete head of at most so many bytes, and uses it. It begins with prefix: what does not is
// refused without waiting for the rest. started is called when it is not there at once.
func (s *source) head(most int, prefix string, started func()) (string, error) {
	for from := 0; ; {
		b := s.buffered()
		length, next, failed := scanHead(b, from)
		switch n := min(len(b), len(prefix)); {
		case string(b[:n]) != prefix[:n]:
			return "", errStatusLine
		case failed != nil:
			return "", failed
		case length > most, length == 0 && len(b) >= most:
			return "", errHeadSize
		case length > 0:
			head := newString(b[:length])
			s.use(length)
			return head, nil
		}
		from = next
		if started != nil {
			started()
			started = nil
		}
		if err := s.fill(most); err != nil {
			return "", err
		}
	}
}
