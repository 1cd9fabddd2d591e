package h2

import (
	"errors"
	"fmt"

	"golang.org/x/net/http2"
)

// Error is how a stream or a connection has failed.
type Error struct {
	Code http2.ErrCode
	// Stream tells that only the stream has failed, not its connection.
	Stream bool
	// Remote tells that the peer has said so.
	Remote bool
	// Unsent tells that nothing of the request was given to the connection, Unprocessed that the peer has not
	// processed it, as it says (RFC 9113 section 8.7).
	Unsent, Unprocessed bool
	// Cause is what the code stands for; it may be nil.
	Cause error
}

// Error implements error.
func (e *Error) Error() string {
	of, by := "connection", "by this side"
	if e.Stream {
		of = "stream"
	}
	if e.Remote {
		by = "by the peer"
	}
	text := fmt.Sprintf("%s ended %s: %s", of, by, e.Code)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// broken is the end of a connection for a reason that the peer is not told.
func broken(cause error) *Error { return &Error{Code: http2.ErrCodeInternal, Cause: cause} }

// fault is a rule that a peer has broken. It is of the stream, or if that cannot be gone on with of the connection.
type fault struct {
	code   http2.ErrCode
	stream bool
	text   string
}

func (f *fault) err() *Error {
	return &Error{Code: f.code, Stream: f.stream, Cause: errors.New(f.text)}
}

func malformed(text string) *fault { return &fault{http2.ErrCodeProtocol, true, text} }

func violation(code http2.ErrCode, text string) *fault { return &fault{code: code, text: text} }

// The rules of a message. A request or response that breaks one is malformed (RFC 9113 section 8.1.1).
var (
	errFieldName    = malformed("a field name is empty, no token, or has upper-case letters (RFC 9113 section 8.2.1)")
	errFieldValue   = malformed("a field value has a control character, or begins or ends with whitespace (RFC 9113 section 8.2.1)")
	errConnection   = malformed("a field is specific to a connection of HTTP/1.1 (RFC 9113 section 8.2.2)")
	errTE           = malformed("the TE is not trailers (RFC 9113 section 8.2.2)")
	errPseudoLate   = malformed("a pseudo-field follows other fields (RFC 9113 section 8.3)")
	errPseudo       = malformed("a pseudo-field is unknown, not one of this message, or there twice (RFC 9113 section 8.3)")
	errMissing      = malformed("the method, scheme or path is missing (RFC 9113 section 8.3.1)")
	errConnect      = malformed("a CONNECT has a scheme or a path, or no authority (RFC 9113 section 8.5)")
	errMethod       = malformed("the method is no token, or too long (RFC 9110 section 9.1)")
	errScheme       = malformed("the scheme is not http or https (RFC 9113 section 8.3.1)")
	errPath         = malformed("the path does not begin with a slash, or has a control character (RFC 9113 section 8.3.1)")
	errLength       = malformed("there is more than one Content-Length, or it is no decimal number below 2^63 (RFC 9110 section 8.6)")
	errLengthBody   = malformed("the body is longer or shorter than its Content-Length (RFC 9113 section 8.1.1)")
	errStatus       = malformed("the status is missing or no number from 100 to 599 (RFC 9113 section 8.3.2)")
	errSwitching    = malformed("the status is 101, which HTTP/2 does not have (RFC 9113 section 8.6)")
	errBody         = malformed("a response that has no body has one (RFC 9110 section 6.4.1)")
	errTrailerOpen  = malformed("the trailer does not end the stream (RFC 9113 section 8.1)")
	errTrailerField = malformed("the trailer has a field for framing or routing (RFC 9110 section 6.5.1)")
	errInformed     = malformed("there are too many informational responses")
	errEarlyData    = malformed("there is a body before the head")
)

// errTooLarge is a head that exceeds the limits. A request is answered with 431.
var errTooLarge = &fault{http2.ErrCodeEnhanceYourCalm, true, "the head is too large"}

// The rules of a connection.
var (
	errSettings    = violation(http2.ErrCodeProtocol, "the first frame is not SETTINGS (RFC 9113 section 3.4)")
	errPush        = violation(http2.ErrCodeProtocol, "there is a PUSH_PROMISE (RFC 9113 section 8.4)")
	errIdle        = violation(http2.ErrCodeProtocol, "a frame is of a stream that has not begun (RFC 9113 section 5.1)")
	errStreamID    = violation(http2.ErrCodeProtocol, "the identifier of a stream is even, or lower than one before (RFC 9113 section 5.1.1)")
	errSelf        = &fault{http2.ErrCodeProtocol, true, "a stream depends on itself"}
	errWindow      = violation(http2.ErrCodeFlowControl, "a window exceeds 2^31-1 (RFC 9113 section 6.9.1)")
	errWindowOf    = &fault{http2.ErrCodeFlowControl, true, "the window of a stream exceeds 2^31-1 (RFC 9113 section 6.9.1)"}
	errOverrun     = violation(http2.ErrCodeFlowControl, "more was sent than the window of the connection allows (RFC 9113 section 6.9)")
	errOverrunOf   = &fault{http2.ErrCodeFlowControl, true, "more was sent than the window of the stream allows (RFC 9113 section 6.9)"}
	errClosed      = &fault{http2.ErrCodeStreamClosed, true, "a frame follows the end of its stream (RFC 9113 section 5.1)"}
	errFrameSize   = violation(http2.ErrCodeFrameSize, "a frame is too long, or has a length that its type does not have (RFC 9113 section 4.2)")
	errFrameStream = violation(http2.ErrCodeProtocol, "a frame of a stream has none, or one of the connection has one (RFC 9113 section 6)")
	errFrameOrder  = violation(http2.ErrCodeProtocol, "something else comes between the parts of a head (RFC 9113 section 6.2)")
	errIncrement   = violation(http2.ErrCodeProtocol, "a WINDOW_UPDATE opens nothing (RFC 9113 section 6.9)")
	errIncrementOf = malformed("a WINDOW_UPDATE opens nothing (RFC 9113 section 6.9)")
	errPadding     = violation(http2.ErrCodeProtocol, "there is more padding than payload (RFC 9113 section 6.1)")
	errGone        = violation(http2.ErrCodeStreamClosed, "the head is of a stream that has ended (RFC 9113 section 5.1)")
	errBlock       = violation(http2.ErrCodeCompression, "the fields cannot be decoded (RFC 9113 section 4.3)")
	errBlockSize   = violation(http2.ErrCodeEnhanceYourCalm, "a head goes on for too long")
	errNoise       = violation(http2.ErrCodeEnhanceYourCalm, "there are too many frames that carry nothing")
	errResets      = violation(http2.ErrCodeEnhanceYourCalm, "too many streams are reset")
	errUnread      = violation(http2.ErrCodeEnhanceYourCalm, "too many answers to frames are waiting to be read")
	errRefused     = &fault{http2.ErrCodeRefusedStream, true, "there are too many streams"}
	errTable       = violation(http2.ErrCodeProtocol, "a setting has a value that is not allowed (RFC 9113 section 6.5.2)")
	errPingSilent  = errors.New("the peer does not answer")
	errIdleLong    = errors.New("the connection was idle for too long")
	errHeadSlow    = errors.New("a head has taken too long")
)

// ErrNotHTTP2 is that a peer's first bytes are not those of HTTP/2.
var ErrNotHTTP2 = errors.New("the peer does not speak HTTP/2")

// ErrShutdown is what Serve returns for a connection that it has not taken because the server is ending.
var ErrShutdown = errors.New("server is shutting down")

var (
	errGoneAway   = errors.New("the connection takes no more requests")
	errFull       = errors.New("the connection has as many streams as the peer allows")
	errClosedHere = errors.New("the connection was closed")
	errHeadTwice  = errors.New("the head of the answer has been written")
	errLengthSent = errors.New("the body does not have the length that was announced")
	errFinished   = errors.New("the exchange is over")
	errUnwanted   = errors.New("the peer wants no more of the body")
	errStopped    = errors.New("no more of the body is to be sent")
)
