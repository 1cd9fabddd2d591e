package hygiene_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// message is one that was read whole.
type message struct {
	// line is the first line as it stands.
	line    string
	fields  []field
	body    string
	trailer []field
}

// field has its name in lower case.
type field struct{ name, value string }

// get returns the values of a field in their order.
func (m *message) get(name string) []string { return valuesOf(m.fields, name) }

func valuesOf(fields []field, name string) []string {
	var values []string
	for _, f := range fields {
		if f.name == name {
			values = append(values, f.value)
		}
	}
	return values
}

// errIncomplete is that a connection ended in the middle of a message.
var errIncomplete = errors.New("incomplete")

// uncleanError is that a message leaves open what it means. Nothing that a proxy writes may be so.
type uncleanError struct{ what string }

func (e uncleanError) Error() string { return "unclean: " + e.what }

func unclean(format string, args ...any) error { return uncleanError{fmt.Sprintf(format, args...)} }

// reader takes messages apart as the RFCs define them, without any of the leniency that they allow. It is
// written for these tests alone and shares no code with an engine, so that both can be held to it.
type reader struct {
	*bufio.Reader
	// expects is called between the head and the body of a request that expects 100-continue.
	expects func()
}

func newReader(c net.Conn) *reader { return &reader{Reader: bufio.NewReader(c)} }

var (
	requestLine = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\\.1$")
	statusLine  = regexp.MustCompile(`^HTTP/1\.[01] [1-9][0-9][0-9] [^\x00-\x08\x0a-\x1f\x7f]*$`)
	token       = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	fieldValue  = regexp.MustCompile(`^[^\x00-\x08\x0a-\x1f\x7f]*$`)
	digits      = regexp.MustCompile(`^[0-9]{1,18}$`)
	hexDigits   = regexp.MustCompile(`^[0-9A-Fa-f]{1,15}$`)
)

// request reads a request. io.EOF is the end of the connection before its first byte.
func (r *reader) request() (*message, error) {
	m, err := r.head(requestLine)
	if err != nil {
		return nil, err
	}
	if n := len(m.get("host")); n != 1 {
		return nil, unclean("%d lines of Host in %q", n, m.line)
	}
	if slices.Contains(m.get("expect"), "100-continue") && r.expects != nil {
		r.expects()
	}
	return m, r.readBody(m, false)
}

// response reads a response to a request of that method, an informational one, too.
func (r *reader) response(method string) (*message, error) {
	m, err := r.head(statusLine)
	if err != nil {
		return nil, err
	}
	if status := m.status(); method == "HEAD" || status < 200 || status == 204 || status == 304 {
		return m, nil
	}
	return m, r.readBody(m, true)
}

// status is the code of a response.
func (m *message) status() int {
	code, _ := strconv.Atoi(m.line[len("HTTP/1.1 ") : len("HTTP/1.1 ")+3])
	return code
}

// head reads a first line and fields.
func (r *reader) head(first *regexp.Regexp) (*message, error) {
	if _, err := r.Peek(1); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("%w: %w", errIncomplete, err)
	}
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	if !first.MatchString(line) {
		return nil, unclean("first line %.100q", line)
	}
	m := &message{line: line}
	m.fields, err = r.readFields()
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (r *reader) readFields() ([]field, error) {
	var fields []field
	for {
		line, err := r.line()
		if err != nil || line == "" {
			return fields, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !token.MatchString(name) || !fieldValue.MatchString(value) {
			return nil, unclean("field %.100q", line)
		}
		fields = append(fields, field{strings.ToLower(name), strings.Trim(value, " \t")})
	}
}

// line reads a line that ends in CRLF and has neither byte inside.
func (r *reader) line() (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%w: %w", errIncomplete, err)
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok || strings.Contains(line, "\r") {
		return "", unclean("end of line %.100q", line)
	}
	return line, nil
}

// readBody reads the body of a message that may have one. untilEnd tells that without length and coding it
// goes on to the end of the connection.
func (r *reader) readBody(m *message, untilEnd bool) error {
	lengths, codings := m.get("content-length"), m.get("transfer-encoding")
	switch {
	case len(lengths) > 1 || len(codings) > 1 || len(lengths)+len(codings) > 1:
		return unclean("lengths %q and codings %q", lengths, codings)
	case len(codings) == 1:
		if codings[0] != "chunked" {
			return unclean("coding %q", codings[0])
		}
		return r.readChunks(m)
	case len(lengths) == 1:
		if !digits.MatchString(lengths[0]) {
			return unclean("length %q", lengths[0])
		}
		length, _ := strconv.Atoi(lengths[0])
		return r.readInto(m, length)
	case untilEnd:
		rest, err := io.ReadAll(r.Reader)
		m.body = string(rest)
		if err != nil {
			return fmt.Errorf("%w: %w", errIncomplete, err)
		}
	}
	return nil
}

func (r *reader) readInto(m *message, length int) error {
	// It grows with what comes, not with what was promised.
	part, err := io.ReadAll(io.LimitReader(r.Reader, int64(length)))
	m.body += string(part)
	if err != nil || len(part) < length {
		return fmt.Errorf("%w: %d of %d bytes: %w", errIncomplete, len(part), length, err)
	}
	return nil
}

func (r *reader) readChunks(m *message) error {
	for {
		line, err := r.line()
		if err != nil {
			return err
		}
		if !hexDigits.MatchString(line) {
			return unclean("size of a chunk %.100q", line)
		}
		size, _ := strconv.ParseInt(line, 16, 64)
		if size == 0 {
			m.trailer, err = r.readFields()
			return err
		}
		if err := r.readInto(m, int(size)); err != nil {
			return err
		}
		if end, err := r.line(); err != nil || end != "" {
			return cmpError(err, unclean("%q after a chunk", end))
		}
	}
}

// cmpError returns the first error there is.
func cmpError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
