package h2

import (
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"

	phttp "weft.dev/weft/proxy/http"
)

// Limits of heads.
const (
	maxMethod = 32
	// fieldCost is what a field counts beside its bytes (RFC 9113 section 6.5.2).
	fieldCost = 32
	// maxBlock and maxBlockFrames bound a block of fields as it is sent, and maxString one name or value of it.
	maxBlock       = 256 << 10
	maxBlockFrames = 64
	maxString      = 128 << 10
	tableSize      = 4 << 10
)

// section says what a block of fields is.
type section uint8

const (
	requestHead section = iota
	responseHead
	trailers
)

// head is a block of fields that was decoded.
type head struct {
	method, scheme, authority, path string
	status                          int
	fields                          phttp.Header
	// memory is where fields lie, nil if there are none.
	memory *phttp.Header
	// length is that of the body, as far as the fields say; -1 if they do not.
	length int64
	// expects tells that 100-continue is expected.
	expects bool
}

// fieldLists are memory for fields that nobody uses.
var fieldLists = sync.Pool{New: func() any {
	list := make(phttp.Header, 0, 16)
	return &list
}}

// mostFields bounds the lists that are used again.
const mostFields = 128

// release lets others use the memory of the fields, which nobody looks at any more.
func (h *head) release() {
	if h.memory != nil && cap(*h.memory) <= mostFields {
		list := (*h.memory)[:cap(*h.memory)]
		clear(list)
		fieldLists.Put(h.memory)
	}
	*h = head{}
}

// decoder decodes the blocks of a connection, one after the other. Its strings are never written again.
type decoder struct {
	hpack *hpack.Decoder
	// most bounds the size of a head.
	most int

	section section
	head    head
	size    int
	// fault is the first rule that the block breaks.
	fault *fault
	// seen are the pseudo-fields there were, regular that others were.
	seen    uint8
	regular bool
	// cookie is the place of the Cookie field, -1 without.
	cookie int
}

func newDecoder(most int) *decoder {
	d := &decoder{most: most}
	d.hpack = hpack.NewDecoder(tableSize, d.field)
	d.hpack.SetMaxStringLength(maxString)
	return d
}

// begin makes ready for a block.
func (d *decoder) begin(s section) {
	d.section, d.head, d.size, d.fault, d.seen, d.regular, d.cookie = s, head{length: -1}, 0, nil, 0, false, -1
	d.hpack.SetEmitEnabled(true)
}

// write decodes a part of the block. An error means that no other can be decoded after it.
func (d *decoder) write(fragment []byte) *fault {
	if _, err := d.hpack.Write(fragment); err != nil {
		return errBlock
	}
	return nil
}

// finish ends the block. connection is a fault with which the connection ends, failed one of the message alone.
func (d *decoder) finish() (h head, connection, failed *fault) {
	if d.hpack.Close() != nil {
		return head{}, errBlock, nil
	}
	if d.head.memory != nil {
		*d.head.memory = d.head.fields
	}
	if d.fault == nil {
		d.fault = d.complete()
	}
	return d.head, nil, d.fault
}

func (d *decoder) fail(f *fault) {
	if d.fault == nil || d.fault == errTooLarge {
		d.fault = f
	}
}

// field takes a field in.
func (d *decoder) field(f hpack.HeaderField) {
	if d.size += len(f.Name) + len(f.Value) + fieldCost; d.size > d.most {
		d.fail(errTooLarge)
		// What follows is decoded for the sake of the table alone.
		d.hpack.SetEmitEnabled(false)
		d.head.fields = nil
		return
	}
	switch {
	case !phttp.ValueOctets.All(f.Value) || padded(f.Value):
		d.fail(errFieldValue)
	case f.Name != "" && f.Name[0] == ':':
		d.pseudo(f.Name, f.Value)
	case f.Name == "" || !phttp.LowerTokenOctets.All(f.Name):
		d.fail(errFieldName)
	default:
		d.plain(f.Name, f.Value)
	}
}

// allowedPseudo are the pseudo-fields of each section.
var allowedPseudo = [...]uint8{requestHead: 15, responseHead: 16, trailers: 0}

// pseudo takes a pseudo-field in.
func (d *decoder) pseudo(name, value string) {
	var bit uint8
	switch name {
	case ":method":
		bit, d.head.method = 1, value
	case ":scheme":
		bit, d.head.scheme = 2, value
	case ":authority":
		bit, d.head.authority = 4, value
	case ":path":
		bit, d.head.path = 8, value
	case ":status":
		bit = 16
		if d.head.status = statusOf(value); d.head.status == 0 {
			d.fail(errStatus)
		}
	}
	switch allowed := allowedPseudo[d.section]; {
	case d.regular:
		d.fail(errPseudoLate)
	case bit&allowed == 0 || d.seen&bit != 0:
		d.fail(errPseudo)
	}
	d.seen |= bit
}

// statusOf returns the number of a status, 0 if it is none.
func statusOf(value string) int {
	if len(value) != 3 || value[0] < '1' || value[0] > '9' || !phttp.IsDigit(value[1]) || !phttp.IsDigit(value[2]) {
		return 0
	}
	return int(value[0]-'0')*100 + int(value[1]-'0')*10 + int(value[2]-'0')
}

// plain takes an ordinary field in.
func (d *decoder) plain(name, value string) {
	d.regular = true
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		d.fail(errConnection)
	case "te":
		if value != "trailers" {
			d.fail(errTE)
		}
	case "content-length":
		n, ok := lengthOf(value)
		if d.section == trailers || !ok || d.head.length >= 0 {
			d.fail(errLength)
		}
		d.head.length = n
	case "host":
		if d.section == trailers {
			d.fail(errTrailerField)
		}
	case "expect":
		d.head.expects = d.head.expects || strings.EqualFold(value, "100-continue")
	case "cookie":
		if d.cookie >= 0 {
			// They are one field again (RFC 9113 section 8.2.3).
			d.head.fields[d.cookie].Value += "; " + value
			return
		}
		d.cookie = len(d.head.fields)
	}
	if d.head.fields == nil {
		d.head.memory, _ = fieldLists.Get().(*phttp.Header)
		d.head.fields = (*d.head.memory)[:0]
	}
	d.head.fields = append(d.head.fields, phttp.Field{Name: name, Value: value})
}

// complete holds what was read against what must be there.
func (d *decoder) complete() *fault {
	h := &d.head
	switch d.section {
	case trailers:
		return nil
	case responseHead:
		if h.status == 101 {
			return errSwitching
		}
		if h.status == 0 {
			return errStatus
		}
		return nil
	case requestHead:
	}
	switch {
	case h.method == "CONNECT" && (d.seen&(2|8) != 0 || h.authority == ""):
		return errConnect
	case h.method == "CONNECT":
		return nil
	case d.seen&1 == 0, d.seen&2 == 0, d.seen&8 == 0:
		return errMissing
	case len(h.method) > maxMethod || !phttp.IsToken(h.method):
		return errMethod
	case h.scheme != "http" && h.scheme != "https":
		return errScheme
	case h.path == "" || h.path[0] != '/' && (h.path != "*" || h.method != "OPTIONS") || !phttp.TargetOctets.All(h.path):
		return errPath
	}
	if h.authority == "" {
		h.authority = h.fields.Get("host")
	}
	return nil
}

// lengthOf reads a Content-Length (RFC 9110 section 8.6).
func lengthOf(value string) (n int64, ok bool) {
	if value == "" {
		return 0, false
	}
	for i := range len(value) {
		c := value[i]
		if !phttp.IsDigit(c) || n > (1<<63-1-int64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// padded tells whether a value begins or ends with whitespace.
func padded(s string) bool {
	return s != "" && (s[0] == ' ' || s[0] == '\t' || s[len(s)-1] == ' ' || s[len(s)-1] == '\t')
}
