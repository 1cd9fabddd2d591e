package upstream

import "net/netip"

// Reason says what went wrong with a try.
type Reason uint8

const (
	// ReasonConnect: the connection was refused or could not be made.
	ReasonConnect Reason = iota + 1
	// ReasonConnectTimeout: connecting took longer than Options.DialTimeout.
	ReasonConnectTimeout
	// ReasonIdentity: no certificate for the source, or the TLS handshake of the hop failed on either side.
	ReasonIdentity
	// ReasonRefused: the peer said that it did not process the request: REFUSED_STREAM, a GOAWAY that
	// excludes the stream (RFC 9113 sections 6.8 and 8.7), or the hop's "not processed".
	ReasonRefused
	// ReasonStale: a reused connection turned out to be closed before the peer had a byte of the request.
	ReasonStale
	// ReasonReset: the connection or stream broke after the request was at least partly sent.
	ReasonReset
	// ReasonProtocol: the peer's answer is not valid HTTP.
	ReasonProtocol
	// ReasonTimeout: the context's deadline passed.
	ReasonTimeout
	// ReasonCanceled: the context was canceled.
	ReasonCanceled
	// ReasonRequestBody: reading the request's body failed; the backend is not to blame.
	ReasonRequestBody
	// ReasonRequest: the request cannot be expressed in the protocol.
	ReasonRequest
)

// String returns the value used in logs and metric labels, such as "connect" or "connect-timeout".
func (r Reason) String() string { panic("not yet") }

// Error is the failure of one try.
type Error struct {
	Reason   Reason
	Endpoint netip.AddrPort
	// NotSent tells that the request was provably not processed by an application: nothing of it was
	// written, or the peer said so. Such a request may be sent elsewhere whatever its method. False means
	// that it may have been processed.
	NotSent bool
	// BodyIntact tells that nothing was read from the request's body and that it is still open.
	BodyIntact bool
	Err        error
}

// Error implements error.
func (e *Error) Error() string { panic("not yet") }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
