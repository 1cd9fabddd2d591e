package engine

import "encoding/binary"

// messages follows the messages of a gRPC body as it is passed on: each has a flag and its length before it
// (PROTOCOL-HTTP2.md, Length-Prefixed-Message).
type messages struct {
	// prefix has the first bytes of a message, n of them; left is how much of what follows them is missing.
	prefix [5]byte
	n      int
	left   int
}

// passed tells that bytes have been passed on.
func (m *messages) passed(p []byte) {
	for len(p) > 0 {
		if m.n < len(m.prefix) {
			n := copy(m.prefix[m.n:], p)
			m.n, p = m.n+n, p[n:]
			if m.n < len(m.prefix) {
				return
			}
			m.left = int(binary.BigEndian.Uint32(m.prefix[1:]))
		}
		n := min(m.left, len(p))
		m.left, p = m.left-n, p[n:]
		if m.left == 0 {
			m.n = 0
		}
	}
}

// within tells whether a message has begun and not ended.
func (m *messages) within() bool { return m.n > 0 }
