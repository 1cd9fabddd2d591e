package h1

import (
	"errors"
	"io"

	phttp "weft.dev/weft/proxy/http"
)

// body reads one message's body from a source: exactly its bytes, without chunks.
type body struct {
	source *source
	// left is how much of the body, or of the present chunk, has not been read.
	left int64
	part part
	// extensions is how many bytes of chunk extensions there were.
	extensions int
	trailer    phttp.Header
	// err is how the body ended: io.EOF if it is complete.
	err error
}

// part says what comes next.
type part uint8

const (
	// partRest: left bytes, and then the body is complete.
	partRest part = iota
	// partToEnd: everything until the connection ends.
	partToEnd
	// partSize: the line before a chunk.
	partSize
	// partChunk: left bytes of a chunk.
	partChunk
	// partChunkEnd: the line end after a chunk.
	partChunkEnd
	// partTrailer: the trailer section.
	partTrailer
)

// begin starts a body of a length, one of the constants if negative.
func (b *body) begin(s *source, length int64) {
	*b = body{source: s}
	switch {
	case length == lengthChunked:
		b.part = partSize
	case length == lengthToEnd:
		b.part = partToEnd
	case length > 0:
		b.left = length
	default:
		b.err = io.EOF
	}
}

// complete tells whether all of the body has been read.
func (b *body) complete() bool { return b.err == io.EOF } //nolint:errorlint // begin and advance set it

// known tells how many bytes are left, if the message has said so.
func (b *body) known() (left int64, ok bool) { return b.left, b.part == partRest }

// read implements io.Reader. It waits at most once.
func (b *body) read(p []byte) (int, error) {
	if err := b.advance(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if bytes := b.source.buffered(); len(bytes) > 0 {
		n := copy(p, bytes[:b.within(len(bytes))])
		b.source.use(n)
		return n, b.took(n)
	}
	n, err := b.source.conn.Read(p[:b.within(len(p))])
	if n == 0 && err != nil {
		return 0, b.fail(err)
	}
	return n, b.took(n)
}

// next returns bytes of the body that have come, waiting once if there are none. They are valid until the
// source is used again.
func (b *body) next() ([]byte, error) {
	if err := b.advance(); err != nil {
		return nil, err
	}
	if len(b.source.buffered()) == 0 {
		if err := b.source.fill(bufferSizes[0]); err != nil {
			return nil, b.fail(err)
		}
	}
	bytes := b.source.buffered()
	bytes = bytes[:b.within(len(bytes))]
	b.source.use(len(bytes))
	return bytes, b.took(len(bytes))
}

// atHand tells whether next has bytes to return without waiting.
func (b *body) atHand() bool {
	bytes := b.source.buffered()
	switch b.part {
	case partRest, partToEnd, partChunk:
		return b.err == nil && len(bytes) > 0
	case partChunkEnd:
		if len(bytes) < 2 {
			return false
		}
		bytes = bytes[2:]
	case partSize:
	case partTrailer:
		return false
	}
	size, length, _, _ := parseChunkLine(bytes)
	return size > 0 && len(bytes) > length
}

// whole returns the whole body if all of it has come, in one chunk if it is chunked, and uses it. The bytes are valid
// until the source is used again.
func (b *body) whole() (bytes []byte, ok bool) {
	bytes = b.source.buffered()
	switch {
	case b.err != nil:
		return nil, b.complete()
	case b.part == partRest:
		if int64(len(bytes)) < b.left {
			return nil, false
		}
	case b.part == partSize:
		size, length, _, err := parseChunkLine(bytes)
		end := int64(length) + size
		if err != nil || size == 0 || size > int64(len(bytes)) || int64(len(bytes))-end < int64(len(lastChunk)) || string(bytes[end:][:len(lastChunk)]) != lastChunk {
			return nil, false
		}
	default:
		return nil, false
	}
	bytes, _ = b.next() // the end is noted
	return bytes, b.complete()
}

// within limits n to what belongs to the body or chunk.
func (b *body) within(n int) int {
	if b.part == partToEnd {
		return n
	}
	return int(min(b.left, int64(n)))
}

// took notes that n bytes were read. It returns io.EOF with the last byte of a body whose length was known.
func (b *body) took(n int) error {
	if b.part == partToEnd {
		return nil
	}
	if b.left -= int64(n); b.left > 0 {
		return nil
	}
	if b.part == partRest {
		b.err = io.EOF
		return b.err
	}
	b.part = partChunkEnd
	return b.atLast()
}

// lastChunk is how most chunked bodies end after their data.
const lastChunk = "\r\n0\r\n\r\n"

// atLast returns io.EOF if the end of the body has come already, so that it is known with the last data.
func (b *body) atLast() error {
	if bytes := b.source.buffered(); len(bytes) >= len(lastChunk) && string(bytes[:len(lastChunk)]) == lastChunk {
		b.source.use(len(lastChunk))
		b.err = io.EOF
	}
	return b.err
}

// fail ends the body because the connection did. That is how a body to the end is complete.
func (b *body) fail(err error) error {
	if errors.Is(err, io.EOF) && b.part != partToEnd {
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	return err
}

// advance goes on to the next byte of the body, through what lies between chunks. An error is how the body
// ended.
func (b *body) advance() error {
	for b.err == nil {
		switch b.part {
		case partRest, partToEnd, partChunk:
			return nil
		case partSize:
			b.size()
		case partChunkEnd:
			b.chunkEnd()
		case partTrailer:
			b.readTrailer()
		}
	}
	return b.err
}

// more waits for more bytes where at most so many are needed.
func (b *body) more(most int) {
	if err := b.source.fill(most); err != nil {
		b.err = b.fail(err)
	}
}

func (b *body) refuse(err *Error) { b.err = err }

func (b *body) size() {
	size, length, extensions, err := parseChunkLine(b.source.buffered())
	b.extensions += extensions
	switch {
	case err != nil:
		b.refuse(err)
	case b.extensions > maxChunkExtensions:
		b.refuse(errChunkExtension)
	case length == 0:
		b.more(2 * maxChunkLine)
	case size == 0:
		b.source.use(length)
		b.part = partTrailer
	default:
		b.source.use(length)
		b.left, b.part = size, partChunk
	}
}

func (b *body) chunkEnd() {
	bytes := b.source.buffered()
	switch {
	case len(bytes) > 0 && bytes[0] != '\r', len(bytes) > 1 && bytes[1] != '\n':
		b.refuse(errChunkEnd)
	case len(bytes) < 2:
		b.more(2 * maxChunkLine)
	default:
		b.source.use(2)
		b.part = partSize
	}
}

func (b *body) readTrailer() {
	bytes := b.source.buffered()
	if len(bytes) >= 2 && bytes[0] == '\r' && bytes[1] == '\n' {
		b.source.use(2)
		b.err = io.EOF
		return
	}
	if len(bytes) < 2 && (len(bytes) == 0 || bytes[0] != '\n') {
		b.more(maxTrailer)
		return
	}
	length, _, err := scanHead(bytes, 0)
	switch {
	case err != nil:
		b.refuse(err)
	case length > maxTrailer, length == 0 && len(bytes) >= maxTrailer:
		b.refuse(errTrailerSize)
	case length == 0:
		b.more(maxTrailer)
	default:
		trailer, err := parseTrailer(newString(bytes[:length]))
		if err != nil {
			b.refuse(err)
			return
		}
		b.source.use(length)
		b.trailer, b.err = trailer, io.EOF
	}
}
