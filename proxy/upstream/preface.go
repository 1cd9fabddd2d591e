package upstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ALPN protocols of the hop listener.
const (
	ALPNHTTP2 = "h2"
	// ALPNTCP is a connection that carries opaque bytes after a preface and its answer.
	ALPNTCP = "weft-tcp/1"
)

// MaxPreface bounds a preface, in bytes.
const MaxPreface = 4096

// A preface is "WEFT", the length of what follows (2 bytes), and fields: number (1 byte), length (2 bytes),
// value as in the HTTP field of the same meaning. Fields of unknown numbers are skipped, so that later
// versions can add some. Integers are big-endian.
const prefaceMagic = "WEFT"

const (
	prefaceHeader = len(prefaceMagic) + 2
	fieldHeader   = 3
)

// The answer to a preface is one of these bytes, the length of a reason (1 byte), and the reason.
const (
	answerAccept = 0
	answerReject = 1
)

// errRejected is what a request or a preface comes to that the receiver did not process.
var errRejected = errors.New("not processed")

// rejection is errRejected with the reason that the receiver gave.
type rejection struct{ reason string }

func (r rejection) Error() string { return fmt.Sprintf("%v: %.256q", errRejected, r.reason) }

// Is makes a rejection equal to errRejected.
func (r rejection) Is(target error) bool { return target == errRejected }

// WritePreface opens an opaque connection: the dialling side sends it first.
func WritePreface(w io.Writer, m Metadata) error {
	preface := make([]byte, prefaceHeader, 256)
	copy(preface, prefaceMagic)
	for _, item := range m.encode() {
		preface = append(preface, item.number)
		preface = binary.BigEndian.AppendUint16(preface, uint16(len(item.value)))
		preface = append(preface, item.value...)
	}
	if len(preface) > MaxPreface {
		return fmt.Errorf("%w: preface of %d bytes", ErrMetadata, len(preface))
	}
	binary.BigEndian.PutUint16(preface[len(prefaceMagic):], uint16(len(preface)-prefaceHeader))
	_, err := w.Write(preface)
	return err
}

// ReadPreface reads exactly one preface. The error wraps ErrMetadata if the bytes are not a valid one.
// The caller bounds the time it may take.
func ReadPreface(r io.Reader) (Metadata, error) {
	header := make([]byte, prefaceHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return Metadata{}, fmt.Errorf("read preface: %w", err)
	}
	length := int(binary.BigEndian.Uint16(header[len(prefaceMagic):]))
	if !bytes.HasPrefix(header, []byte(prefaceMagic)) || length > MaxPreface-prefaceHeader {
		return Metadata{}, fmt.Errorf("%w: no preface", ErrMetadata)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return Metadata{}, fmt.Errorf("read preface: %w", err)
	}
	return parsePreface(body)
}

func parsePreface(body []byte) (Metadata, error) {
	var m Metadata
	var seen [len(fieldOf)]bool
	for len(body) > 0 {
		if len(body) < fieldHeader {
			return Metadata{}, fmt.Errorf("%w: preface is cut short", ErrMetadata)
		}
		number, length := int(body[0]), int(binary.BigEndian.Uint16(body[1:]))
		body = body[fieldHeader:]
		if length > len(body) {
			return Metadata{}, fmt.Errorf("%w: preface is cut short", ErrMetadata)
		}
		value := string(body[:length])
		body = body[length:]
		if number == 0 || number >= len(fieldOf) {
			continue
		}
		if seen[number] {
			return Metadata{}, fmt.Errorf("%w: two fields %s", ErrMetadata, fieldOf[number])
		}
		seen[number] = true
		if err := m.decode(fieldOf[number], value); err != nil {
			return Metadata{}, err
		}
	}
	if m.Backend == "" {
		return Metadata{}, fmt.Errorf("%w: no backend", ErrMetadata)
	}
	return m, nil
}

// WriteAccept answers a preface once the receiver is connected to the backend; opaque bytes follow.
func WriteAccept(w io.Writer) error {
	_, err := w.Write([]byte{answerAccept, 0})
	return err
}

// WriteReject answers a preface when no application was reached: Dial at the other end fails with
// ReasonRefused, and may be repeated elsewhere. The receiver closes the connection afterwards. reason is
// for logs, and cut to 255 bytes.
func WriteReject(w io.Writer, reason string) error {
	reason = reason[:min(len(reason), 255)]
	_, err := w.Write(append([]byte{answerReject, byte(len(reason))}, reason...))
	return err
}

// readAnswer reads exactly one answer. A rejection is an error that wraps errRejected.
func readAnswer(r io.Reader) error {
	header := make([]byte, 2)
	if _, err := io.ReadFull(r, header); err != nil {
		return fmt.Errorf("read answer to preface: %w", err)
	}
	reason := make([]byte, header[1])
	if _, err := io.ReadFull(r, reason); err != nil {
		return fmt.Errorf("read answer to preface: %w", err)
	}
	switch header[0] {
	case answerAccept:
		return nil
	case answerReject:
		return rejection{string(reason)}
	default:
		return fmt.Errorf("answer to preface is %d", header[0])
	}
}
