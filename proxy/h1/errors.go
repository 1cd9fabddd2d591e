package h1

// Fault says what kind of answer an invalid message deserves.
type Fault uint8

const (
	// Malformed is answered with 400, a response with 502.
	Malformed Fault = iota + 1
	// TooLarge is answered with 431 (RFC 6585 section 5).
	TooLarge
	// VersionUnsupported is answered with 505 (RFC 9110 section 15.6.6).
	VersionUnsupported
	// ExpectationFailed is answered with 417 (RFC 9110 section 15.5.18).
	ExpectationFailed
	// CodingUnsupported is answered with 501 (RFC 9112 section 6.1).
	CodingUnsupported
)

// Error says why a message is refused. The connection ends with it: where the next message would begin is
// not known any more.
type Error struct {
	Fault Fault
	text  string
}

// Error implements error.
func (e *Error) Error() string { return e.text }

func malformed(text string) *Error { return &Error{Malformed, text} }

// The rules of a head. Where the RFC lets a recipient be lenient, the comment says so.
var (
	// RFC 9112 section 2.2 lets a recipient take a bare LF for the end of a line.
	errBareLF = malformed("a line ends with LF alone (RFC 9112 section 2.2)")
	// RFC 9112 section 2.2 lets a server ignore an empty line before a request.
	errEmptyLine = malformed("the start line is empty (RFC 9112 section 2.2)")

	errRequestLine = malformed("the request line is not method, target and version with one space between (RFC 9112 section 3)")
	errMethod      = malformed("the method is no token, or too long (RFC 9110 section 9.1)")
	errTarget      = malformed("the request target has a control character or no known form (RFC 9112 section 3.2)")
	errVersion     = &Error{VersionUnsupported, "the version is not HTTP/1.0 or HTTP/1.1 (RFC 9112 section 2.3)"}
	errStatusLine  = malformed("the status line is not version, status and reason (RFC 9112 section 4)")

	errFolded     = malformed("a field line begins with whitespace (obsolete folding, RFC 9112 section 5.2)")
	errFieldName  = malformed("a field line has no name that is a token and is followed by a colon at once (RFC 9112 section 5.1)")
	errFieldValue = malformed("a field value has a control character (RFC 9110 section 5.5)")
	errFields     = &Error{TooLarge, "there are too many fields"}
	errHeadSize   = &Error{TooLarge, "the head is too long"}

	errHostMissing = malformed("a request of HTTP/1.1 has no Host (RFC 9112 section 3.2)")
	errHostTwice   = malformed("there is more than one Host (RFC 9112 section 3.2)")
	errHost        = malformed("the Host is no host with an optional port (RFC 9112 section 3.2)")
	// RFC 9112 section 3.2.2 lets a proxy replace the Host.
	errHostDiffers = malformed("the Host differs from the authority of the target (RFC 9112 section 3.2.2)")

	// RFC 9112 section 6.3 lets a recipient take several equal lengths for one.
	errLengthTwice = malformed("there is more than one Content-Length (RFC 9112 section 6.3)")
	errLength      = malformed("the Content-Length is no decimal number below 2^63 (RFC 9110 section 8.6)")
	// RFC 9112 section 6.1 lets a server process such a request as chunked.
	errLengthAndCoding = malformed("there are both Content-Length and Transfer-Encoding (RFC 9112 section 6.1)")
	errCoding          = &Error{CodingUnsupported, "the Transfer-Encoding is not exactly chunked (RFC 9112 section 6.1)"}
	errCodingOld       = malformed("a message of HTTP/1.0 has a Transfer-Encoding (RFC 9112 section 6.1)")
	errExpect          = &Error{ExpectationFailed, "the Expect is not 100-continue (RFC 9110 section 10.1.1)"}
)

// The rules of a chunked body.
var (
	errChunkSize      = malformed("a chunk size is not 1 to 16 hexadecimal digits below 2^63 (RFC 9112 section 7.1)")
	errChunkEnd       = malformed("the data of a chunk is not followed by CRLF (RFC 9112 section 7.1)")
	errChunkExtension = malformed("a chunk extension is not valid, or they are too long (RFC 9112 section 7.1.1)")
	errTrailerField   = malformed("a trailer has a field for framing or routing (RFC 9110 section 6.5.1)")
	errTrailerSize    = &Error{TooLarge, "the trailer is too long"}
)
