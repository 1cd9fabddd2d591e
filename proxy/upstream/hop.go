package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
)

// The metadata of the hop as HTTP fields. Whoever receives a request from anything but an authenticated
// proxy removes them (StripMetadata).
const (
	FieldBackend  = "Weft-Backend"
	FieldTimeLeft = "Weft-Time-Left"
	FieldAttempt  = "Weft-Attempt"
	FieldZone     = "Weft-Zone"
	FieldClient   = "Weft-Client"
	FieldAvoid    = "Weft-Avoid"
	// FieldStreamTimeLeft is in milliseconds, as FieldTimeLeft.
	FieldStreamTimeLeft = "Weft-Stream-Time-Left"
	FieldNode           = "Weft-Node"
	// FieldSession is in a response as well: the name of the endpoint that has answered, if the request asked.
	FieldSession = "Weft-Session"
	// FieldDebug asks for what has decided about a request.
	FieldDebug = "Weft-Debug"
	// FieldCaller is who a request comes from that a namespace's own proxy passes on to the proxy of a pod.
	FieldCaller = "Weft-Caller"
)

// The metadata of responses.
const (
	FieldNotProcessed = "Weft-Not-Processed"
	FieldEndpoint     = "Weft-Endpoint"
)

// Bounds of the metadata; what exceeds them is refused by the receiver and never sent.
const (
	MaxBackendKey = 256
	MaxZone       = 63
	MaxNode       = 253
	MaxAvoid      = 8
	MaxAttempt    = 1000
	MaxSession    = 64
	MaxCaller     = 1024
)

// SessionNew asks for the name of the endpoint that will have answered, where there is none to prefer yet.
const SessionNew = "-"

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
	// StreamTimeLeft takes the place of TimeLeft once a response of unknown length has begun; zero means
	// that TimeLeft stays.
	StreamTimeLeft time.Duration
	// Attempt counts tries from zero.
	Attempt int
	// Zone and Node are the client's; empty if not known.
	Zone, Node string
	// Client is the original client's address; invalid if not known.
	Client netip.AddrPort
	// Avoid are hints, at most MaxAvoid.
	Avoid []netip.AddrPort
	// Session names the endpoint that a client's session is with, or is SessionNew; empty if there is no
	// session. The names are the engine's (package session).
	Session string
	// Debug tells that the client wants to know what has decided about the request.
	Debug bool
	// Caller is the SPIFFE ID that a proxy has proven which passes the request on under its own; empty if the sender
	// presents the caller's. Only the proxies of the receiver's own namespace are to be believed.
	Caller string
}

// SetMetadata replaces the metadata in a request's header.
func SetMetadata(header http.Header, m Metadata) {
	StripMetadata(header)
	for _, item := range m.encode() {
		header[item.name] = []string{item.value}
	}
}

// appendMetadata appends the metadata to a request's fields, which have none.
func appendMetadata(fields phttp.Header, m Metadata) phttp.Header {
	for _, item := range m.encode() {
		fields = append(fields, phttp.Field{Name: item.name, Value: item.value})
	}
	return fields
}

// ReadMetadata returns the metadata of a request that arrived over the hop. It leaves the header as it is.
// The error wraps ErrMetadata.
func ReadMetadata(header phttp.Header) (Metadata, error) {
	var m Metadata
	var read [len(fieldOf)]bool
	for i := range header {
		if !phttp.Internal(header[i].Name) {
			continue
		}
		at := slices.IndexFunc(fieldOf[:], func(name string) bool { return strings.EqualFold(name, header[i].Name) })
		if at < 0 {
			continue
		}
		name := fieldOf[at]
		if read[at] {
			return Metadata{}, fmt.Errorf("%w: several fields %s", ErrMetadata, name)
		}
		read[at] = true
		if err := m.decode(name, header[i].Value); err != nil {
			return Metadata{}, err
		}
	}
	if m.Backend == "" {
		return Metadata{}, fmt.Errorf("%w: no backend", ErrMetadata)
	}
	return m, nil
}

// StripMetadata removes every field named weft-*.
func StripMetadata(header http.Header) {
	const prefix = "weft-"
	for name := range header {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			delete(header, name)
		}
	}
}

// NotProcessedHeader returns the header of an answer with StatusNotProcessed. reason is for logs.
func NotProcessedHeader(reason string) http.Header {
	return http.Header{FieldNotProcessed: {reason}, "Content-Length": {"0"}}
}

// Outcome is what the callee's proxy tells the caller's about its tries, in the head of a response.
type Outcome struct {
	// NotProcessed is set if the proxy has made the answer itself and no application has seen the request:
	// to the reason, which is for logs.
	NotProcessed string
	// Tried are the endpoints that its tries ended at, the last one last. At most the last MaxAvoid travel.
	Tried []netip.AddrPort
}

// SetOutcome replaces the outcome in a response's header.
func SetOutcome(header *phttp.Header, o Outcome) {
	StripOutcome(header)
	if o.NotProcessed != "" {
		header.Add(FieldNotProcessed, o.NotProcessed)
	}
	if tried := o.Tried[max(0, len(o.Tried)-MaxAvoid):]; len(tried) > 0 {
		header.Add(FieldEndpoint, formatAddresses(tried))
	}
}

// StripOutcome removes the outcome from a response's header.
func StripOutcome(header *phttp.Header) {
	header.Del(FieldNotProcessed)
	header.Del(FieldEndpoint)
}

// TakeOutcome removes the outcome from the header of a response that came over the hop, and returns it.
// What is not valid is taken for absent: a hint that is lost costs less than a response that is refused. Of
// a pod's response there is nothing left to take, see RoundTrip.
func TakeOutcome(header http.Header) Outcome {
	var o Outcome
	if values := header[FieldNotProcessed]; len(values) == 1 {
		o.NotProcessed = values[0]
	}
	if values := header[FieldEndpoint]; len(values) == 1 {
		o.Tried, _ = parseAddresses(values[0])
	}
	delete(header, FieldNotProcessed)
	delete(header, FieldEndpoint)
	return o
}

// fieldOf names the metadata fields in the order of their numbers in a preface; numbers are never reused.
var fieldOf = [...]string{
	1: FieldBackend, 2: FieldTimeLeft, 3: FieldAttempt, 4: FieldZone, 5: FieldClient, 6: FieldAvoid,
	7: FieldStreamTimeLeft, 8: FieldNode, 9: FieldSession, 10: FieldDebug, 11: FieldCaller,
}

// DebugDecisions is the one value of FieldDebug: what MeshAuthorizations have decided.
const DebugDecisions = "authorization"

// item is one field of the metadata in its text form, which HTTP and the preface share.
type item struct {
	number byte
	name   string
	value  string
}

// encode returns the fields that are set. Values out of bounds are left out or cut, because a hint that is
// lost costs less than a request that is refused.
func (m Metadata) encode() []item {
	items := make([]item, 0, len(fieldOf))
	add := func(number byte, value string) {
		items = append(items, item{number, fieldOf[number], value})
	}
	add(1, m.Backend)
	if m.TimeLeft > 0 {
		add(2, formatMilliseconds(m.TimeLeft))
	}
	if m.Attempt > 0 {
		add(3, strconv.Itoa(min(m.Attempt, MaxAttempt)))
	}
	if m.Zone != "" && validZone(m.Zone) {
		add(4, m.Zone)
	}
	if m.Client.IsValid() {
		add(5, m.Client.String())
	}
	if len(m.Avoid) > 0 {
		add(6, formatAddresses(m.Avoid[:min(len(m.Avoid), MaxAvoid)]))
	}
	if m.StreamTimeLeft > 0 {
		add(7, formatMilliseconds(m.StreamTimeLeft))
	}
	if m.Node != "" && validNode(m.Node) {
		add(8, m.Node)
	}
	if validSession(m.Session) {
		add(9, m.Session)
	}
	if m.Debug {
		add(10, DebugDecisions)
	}
	if m.Caller != "" {
		add(11, m.Caller)
	}
	return items
}

// decode sets one field from its text form.
func (m *Metadata) decode(name, value string) error {
	var ok bool
	switch name {
	case FieldBackend:
		m.Backend, ok = value, validBackendKey(value)
	case FieldTimeLeft:
		m.TimeLeft, ok = parseMilliseconds(value)
	case FieldStreamTimeLeft:
		m.StreamTimeLeft, ok = parseMilliseconds(value)
	case FieldAttempt:
		var attempt int64
		attempt, ok = decimal(value, MaxAttempt)
		m.Attempt = int(attempt)
	case FieldZone:
		m.Zone, ok = value, value != "" && validZone(value)
	case FieldNode:
		m.Node, ok = value, value != "" && validNode(value)
	case FieldClient:
		m.Client, ok = parseAddress(value)
	case FieldAvoid:
		m.Avoid, ok = parseAddresses(value)
	case FieldSession:
		m.Session, ok = value, validSession(value)
	case FieldDebug:
		m.Debug, ok = true, value == DebugDecisions
	case FieldCaller:
		m.Caller, ok = value, value != "" && len(value) <= MaxCaller && only(value, "/:-._")
	}
	if !ok {
		return fmt.Errorf("%w: %s %.64q", ErrMetadata, name, value)
	}
	return nil
}

// maxTimeLeft bounds what is left until a deadline.
const maxTimeLeft = 365 * 24 * time.Hour

func formatMilliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, min(d, maxTimeLeft).Milliseconds()), 10)
}

func parseMilliseconds(s string) (time.Duration, bool) {
	n, ok := decimal(s, maxTimeLeft.Milliseconds())
	return time.Duration(n) * time.Millisecond, ok && n > 0
}

// decimal parses digits without sign or leading zeros, up to a limit.
func decimal(s string, limit int64) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && n <= limit && strconv.FormatInt(n, 10) == s
}

// parseAddress parses an address and port without zone.
func parseAddress(s string) (netip.AddrPort, bool) {
	if len(s) > len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535") {
		return netip.AddrPort{}, false
	}
	address, err := netip.ParseAddrPort(s)
	return address, err == nil && address.Addr().Zone() == ""
}

func formatAddresses(addresses []netip.AddrPort) string {
	var out strings.Builder
	for i, address := range addresses {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(address.String())
	}
	return out.String()
}

func parseAddresses(s string) ([]netip.AddrPort, bool) {
	parts := strings.SplitN(s, ",", MaxAvoid+1)
	if len(parts) > MaxAvoid {
		return nil, false
	}
	addresses := make([]netip.AddrPort, len(parts))
	for i, part := range parts {
		var ok bool
		if addresses[i], ok = parseAddress(part); !ok {
			return nil, false
		}
	}
	return addresses, true
}

// validBackendKey accepts what wire.ServicePortKey makes from Kubernetes names; whether the Backend exists
// is for the caller to find out.
func validBackendKey(key string) bool {
	return key != "" && len(key) <= MaxBackendKey && only(key, "/:-.")
}

// validZone accepts the value of a node's topology label.
func validZone(zone string) bool { return len(zone) <= MaxZone && only(zone, "-._") }

// validNode accepts the name of a node, a DNS subdomain.
func validNode(node string) bool { return len(node) <= MaxNode && only(node, "-.") }

func validSession(name string) bool { return name != "" && len(name) <= MaxSession && only(name, "-_") }

// only tells whether s is made of ASCII letters, digits and the bytes of others.
func only(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}
