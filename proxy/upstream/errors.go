package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Reason says what went wrong with a try.
type Reason uint8

const (
	// ReasonConnect means that the connection was refused or could not be made.
	ReasonConnect Reason = iota + 1
	// ReasonConnectTimeout means that connecting took longer than the Backend's policy allows.
	ReasonConnectTimeout
	// ReasonIdentity means that there is no certificate for the source, or that one side of the hop refused
	// the other's.
	ReasonIdentity
	// ReasonRefused means that the peer said that it did not process the request: REFUSED_STREAM, a GOAWAY that
	// excludes the stream (RFC 9113 sections 6.8 and 8.7), or the hop's "not processed".
	ReasonRefused
	// ReasonStale means that the connection turned out to be closed before the peer had a byte of the request.
	ReasonStale
	// ReasonReset means that the connection or stream broke after the request was at least partly sent.
	ReasonReset
	// ReasonProtocol means that the peer's answer is not valid HTTP.
	ReasonProtocol
	// ReasonTimeout means that the context's deadline passed.
	ReasonTimeout
	// ReasonCanceled means that the context was canceled.
	ReasonCanceled
	// ReasonRequestBody means that reading the request's body failed; the backend is not to blame.
	ReasonRequestBody
	// ReasonRequest means that the request cannot be expressed in the protocol, or the Endpoint's Backend is not
	// HTTP; no other endpoint would do better.
	ReasonRequest
	// ReasonFull means that a limit of the Backend is reached; no other endpoint would do better.
	ReasonFull
	// ReasonEndpointFull means that a limit of the endpoint is reached; another one may have room.
	ReasonEndpointFull
)

var reasonNames = [...]string{
	ReasonConnect: "connect", ReasonConnectTimeout: "connect-timeout", ReasonIdentity: "identity",
	ReasonRefused: "refused", ReasonStale: "stale", ReasonReset: "reset", ReasonProtocol: "protocol",
	ReasonTimeout: "timeout", ReasonCanceled: "canceled", ReasonRequestBody: "request-body",
	ReasonRequest: "request", ReasonFull: "full", ReasonEndpointFull: "endpoint-full",
}

// String returns the value used in logs and metric labels, such as "connect" or "connect-timeout".
func (r Reason) String() string {
	if r == 0 || int(r) >= len(reasonNames) {
		return fmt.Sprintf("reason-%d", uint8(r))
	}
	return reasonNames[r]
}

// Error is the failure of one try.
type Error struct {
	Reason   Reason
	Endpoint netip.AddrPort
	// NotSent tells that the request was provably not processed by an application: nothing of it was
	// written, the peer closed the connection before it had a byte of it, or the peer said so. Such a
	// request may be sent elsewhere whatever its method. False means that it may have been processed.
	NotSent bool
	// BodyIntact tells that nothing was read from the request's body and that it is still open.
	BodyIntact bool
	Err        error

	// unsent tells Direct that another connection may do better.
	unsent bool
}

// Error implements error.
func (e *Error) Error() string {
	if !e.Endpoint.IsValid() {
		return fmt.Sprintf("%s: %v", e.Reason, e.Err)
	}
	return fmt.Sprintf("endpoint %s: %s: %v", e.Endpoint, e.Reason, e.Err)
}

// Rejection returns the reason that the proxy at the other end of the hop gave for not processing what it was
// sent, "" if that is not what happened.
func (e *Error) Rejection() string {
	if r, ok := errors.AsType[rejection](e.Err); ok {
		return r.reason
	}
	return ""
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// contextReason returns the reason that a context's end is, or zero if it has not ended.
func contextReason(ctx context.Context) Reason {
	switch err := ctx.Err(); {
	case err == nil:
		return 0
	case errors.Is(err, context.DeadlineExceeded):
		return ReasonTimeout
	default:
		return ReasonCanceled
	}
}

// streamError is a reset HTTP/2 stream as net/http reports it: its own error type is internal, but
// converts to one of this form (errors.As).
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamError) Error() string { return "stream error" }

// fromPeer tells whether the peer reset the stream, and not our side.
func (e streamError) fromPeer() bool {
	return e.Cause != nil && e.Cause.Error() == "received from peer"
}

// codeRefusedStream is REFUSED_STREAM, RFC 9113 section 7.
const codeRefusedStream = 0x7

// http2Unprocessed tells whether an error of net/http's HTTP/2 client says that the peer excluded the
// stream from processing. The errors for GOAWAY are not exported; TestHTTP2NotSent fails if their texts
// change, and until then such a request would only not be repeated.
func http2Unprocessed(err error) bool {
	if stream, ok := errors.AsType[streamError](err); ok {
		return stream.Code == codeRefusedStream
	}
	text := err.Error()
	return strings.Contains(text, "received Server's graceful shutdown GOAWAY") ||
		strings.Contains(text, "received GOAWAY from server ErrCode")
}
