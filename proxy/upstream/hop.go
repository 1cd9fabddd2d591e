package upstream

import (
	"errors"
	"net/http"
	"net/netip"
	"time"
)

// The metadata of the hop as HTTP fields. Whoever receives a request from anything but an authenticated
// proxy removes them (StripMetadata).
const (
	FieldBackend      = "Weft-Backend"
	FieldTimeLeft     = "Weft-Time-Left"
	FieldAttempt      = "Weft-Attempt"
	FieldZone         = "Weft-Zone"
	FieldClient       = "Weft-Client"
	FieldAvoid        = "Weft-Avoid"
	FieldNotProcessed = "Weft-Not-Processed"
)

// Bounds of the metadata; what exceeds them is refused by the receiver and never sent.
const (
	MaxBackendKey = 256
	MaxZone       = 63
	MaxAvoid      = 8
)

// StatusNotProcessed with FieldNotProcessed is the hop's answer for a request that no application has
// seen, for example because its Backend is not known here yet. The sender's RoundTrip turns it into an
// Error with NotSent and ReasonRefused. 421 is the status that allows a client to try another connection
// (RFC 9110 section 15.5.20).
const StatusNotProcessed = http.StatusMisdirectedRequest

// ErrMetadata tells that a request of the hop carries no or invalid metadata.
var ErrMetadata = errors.New("invalid hop metadata")

// Metadata is what the caller's proxy tells the callee's about a request or an opaque connection.
type Metadata struct {
	// Backend is the key of the Backend meant.
	Backend string
	// TimeLeft until the request's deadline, whole milliseconds, at least one; zero means no deadline. It
	// is relative, because clocks of nodes differ.
	TimeLeft time.Duration
	// Attempt counts tries from zero.
	Attempt int
	// Zone is the client's; empty if not known.
	Zone string
	// Client is the original client's address; invalid if not known.
	Client netip.AddrPort
	// Avoid are hints, at most MaxAvoid.
	Avoid []netip.AddrPort
}

// SetMetadata replaces the metadata in a request's header.
func SetMetadata(header http.Header, m Metadata) { panic("not yet") }

// ReadMetadata returns the metadata of a request that arrived over the hop. It leaves the header as it is.
// The error wraps ErrMetadata.
func ReadMetadata(header http.Header) (Metadata, error) { panic("not yet") }

// StripMetadata removes every field named weft-*.
func StripMetadata(header http.Header) { panic("not yet") }

// NotProcessedHeader returns the header of an answer with StatusNotProcessed. reason is for logs.
func NotProcessedHeader(reason string) http.Header { panic("not yet") }
