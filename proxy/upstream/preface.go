package upstream

import "io"

// ALPN protocols of the hop listener.
const (
	ALPNHTTP2 = "h2"
	// ALPNTCP is a connection that carries opaque bytes after a preface and its answer.
	ALPNTCP = "weft-tcp/1"
)

// MaxPreface bounds a preface and its answer, in bytes.
const MaxPreface = 4096

// WritePreface opens an opaque connection: the dialling side sends it first.
func WritePreface(w io.Writer, m Metadata) error { panic("not yet") }

// ReadPreface reads exactly one preface. The error wraps ErrMetadata if the bytes are not a valid one.
// The caller bounds the time it may take.
func ReadPreface(r io.Reader) (Metadata, error) { panic("not yet") }

// WriteAccept answers a preface once the receiver is connected to the backend; opaque bytes follow.
func WriteAccept(w io.Writer) error { panic("not yet") }

// WriteReject answers a preface when no application was reached: Dial at the other end fails with
// ReasonRefused, and may be repeated elsewhere. The receiver closes the connection afterwards. reason is
// for logs, and cut to 255 bytes.
func WriteReject(w io.Writer, reason string) error { panic("not yet") }
