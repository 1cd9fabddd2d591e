package hygiene_test

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/hygiene/corpus"
)

// way leads to one backend.
type way struct {
	name, address string
	backend       *backend
}

// ways starts a data plane of every kind.
func ways(f *testing.F, reply func(*message) (string, bool)) []way {
	var all []way
	for _, k := range kinds {
		b := newBackend(f, reply)
		all = append(all, way{k.name, k.start(f).service(f, "fuzz", b.address, wire.ProtocolHTTP), b})
	}
	return all
}

// take returns what has arrived since it was called last, without the canary.
func (w way) take(t *testing.T) []*message {
	t.Helper()
	w.backend.mu.Lock()
	defer w.backend.mu.Unlock()
	var arrived []*message
	for _, a := range w.backend.arrivals {
		var bad uncleanError
		if errors.As(a.err, &bad) {
			t.Errorf("%s: the backend got a request that is %v", w.name, a.err)
		}
		if a.err == nil && a.target() != canary {
			arrived = append(arrived, a.message)
			for _, problem := range forbidden(a.message) {
				t.Errorf("%s: the backend got %s", w.name, problem)
			}
		}
	}
	w.backend.arrivals = nil
	return arrived
}

// FuzzForwardedRequest holds that a request of which an independent reader knows what it means reaches the backend as the
// same one, or not at all, whatever is between; and that nothing passes our own engine which net/http would not let pass.
func FuzzForwardedRequest(f *testing.F) {
	for _, c := range corpus.Requests() {
		f.Add([]byte(c.Raw))
	}
	all := ways(f, named)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := &reader{Reader: bufio.NewReader(bytes.NewReader(raw))}
		sent, err := r.request()
		if rest, _ := io.ReadAll(r.Reader); err != nil || len(rest) > 0 {
			return // the corpus and the fuzz targets of package h1 have these
		}
		want, ok := expected(sent)
		if !ok {
			return
		}
		passed := map[string]bool{}
		for _, w := range all {
			w.exchange(t, raw)
			arrived := w.take(t)
			if len(arrived) > 1 {
				t.Fatalf("%s: %q arrives as %s", w.name, raw, brief(arrived))
			}
			if len(arrived) == 1 {
				passed[w.name] = true
				if problem := want.differs(arrived[0]); problem != "" {
					t.Fatalf("%s: %q arrives as another request: %s", w.name, raw, problem)
				}
			}
		}
		for _, w := range all {
			if std, own := strings.CutPrefix(w.name, "weft"); own && passed[w.name] && !passed["std"+std] {
				t.Fatalf("%s lets %q pass, and std does not", w.name, raw)
			}
		}
	})
}

// exchange sends a request and what shows whether the connection is still in step, and reads what is answered.
func (w way) exchange(t *testing.T, raw []byte) {
	t.Helper()
	conn := dial(t, w.address)
	defer func() { _ = conn.Close() }()
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		// The proxy may stop reading at any byte.
		_, _ = conn.Write(append(slices.Clip(raw), canary+" HTTP/1.1\r\nHost: h\r\n\r\n"...))
	}()
	method, _, _ := strings.Cut(string(raw), " ")
	for r := newReader(conn); ; {
		m, err := r.response(method)
		var bad uncleanError
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatalf("%s: neither answer nor end for %q", w.name, raw)
		case errors.As(err, &bad):
			t.Fatalf("%s: the answer to %q is %v", w.name, raw, err)
		case err == nil && m.body != canary:
			if m.status() >= 200 {
				method = ""
			}
			continue
		}
		_ = conn.Close()
		<-sending
		return
	}
}

// meant is what must arrive of a request.
type meant struct {
	line, host, body string
	fields           []field
}

// expected returns what must arrive of a request; false if it is none that is forwarded as it is.
func expected(sent *message) (meant, bool) {
	method, rest, _ := strings.Cut(sent.line, " ")
	head := phttp.Request{Method: method, Authority: sent.get("host")[0]}
	if head.SetTarget(strings.TrimSuffix(rest, " HTTP/1.1")) != nil || method == "CONNECT" || len(sent.get("upgrade")) > 0 {
		return meant{}, false
	}
	for _, f := range sent.fields {
		head.Header.Add(f.name, f.value)
	}
	phttp.StripInternal(&head.Header)
	phttp.StripHopByHop(&head.Header, false)
	m := meant{line: method + " " + head.Target() + " HTTP/1.1", host: head.Authority, body: sent.body}
	for _, f := range head.Header {
		m.fields = append(m.fields, field{strings.ToLower(f.Name), f.Value})
	}
	m.fields = payload(m.fields)
	return m, true
}

// payload returns the fields that belong to the application alone. Max-Forwards is counted down.
func payload(fields []field) []field {
	kept := slices.DeleteFunc(slices.Clone(fields), func(f field) bool {
		switch f.name {
		case "host", "content-length", "transfer-encoding", "connection", "te", "expect", "trailer", "cookie", "max-forwards":
			return true
		}
		return strings.HasPrefix(f.name, phttp.InternalPrefix)
	})
	// Fields of different names have no order (RFC 9110 section 5.3).
	slices.SortStableFunc(kept, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return kept
}

// differs tells in what a request that has arrived is another one.
func (m meant) differs(got *message) string {
	switch {
	case got.line != m.line:
		return fmt.Sprintf("line %q, want %q", got.line, m.line)
	case m.host != "" && got.get("host")[0] != m.host:
		return fmt.Sprintf("host %q, want %q", got.get("host"), m.host)
	case got.body != m.body:
		return fmt.Sprintf("body %q, want %q", got.body, m.body)
	}
	if fields := payload(got.fields); !slices.Equal(fields, m.fields) {
		return fmt.Sprintf("fields %q, want %q", fields, m.fields)
	}
	return ""
}

// FuzzForwardedHTTP2 does so for requests of HTTP/2: fields are lines, and what follows an empty line is the body. There
// is more that cannot be said in HTTP/1.1 than in any message of that, and all of it must be refused.
func FuzzForwardedHTTP2(f *testing.F) {
	const plain = ":method= GET\n:scheme= http\n:authority= h\n:path= /"
	for _, more := range []string{
		"", "\nx= 1\nx= 2", "\ncookie= a=1\ncookie= b=2", "\ncontent-length= 5\n\nhello", "\n\nhello", "\ncontent-length= 4\n\nhello",
		"\nx= a\r", "\nx= \x00", "\ntransfer-encoding= chunked\n\n0\r\n\r\n", "\nhost= other", "\nx:y= 1", "\nx y= 1", "/ HTTP/1.1\r", " /", "\nweft-a= 1",
	} {
		f.Add(plain + more)
	}
	f.Add(":method= GET /smuggled HTTP/1.1\r\n\r\nGET\n:scheme= http\n:authority= h\n:path= /")
	f.Add(":method= GET\n:scheme= http\n:authority= h\r\nx: 1\n:path= /")
	f.Add(":method= OPTIONS\n:scheme= http\n:authority= h\n:path= *")
	all := ways(f, named)
	f.Fuzz(func(t *testing.T, text string) {
		sent, encoded := encode(text)
		if encoded == nil {
			return
		}
		passed := map[string]bool{}
		for _, w := range all {
			w.exchangeHTTP2(t, encoded)
			arrived := w.take(t)
			if len(arrived) > 1 {
				t.Fatalf("%s: %q arrives as %s", w.name, text, brief(arrived))
			}
			if len(arrived) == 0 {
				continue
			}
			passed[w.name] = true
			want, ok := expected(sent)
			if !ok {
				t.Fatalf("%s: %q arrives as %s", w.name, text, brief(arrived))
			}
			if problem := want.differs(arrived[0]); problem != "" {
				t.Fatalf("%s: %q arrives as another request: %s", w.name, text, problem)
			}
		}
		for _, w := range all {
			if std, own := strings.CutPrefix(w.name, "weft"); own && passed[w.name] && !passed["std"+std] {
				t.Fatalf("%s lets %q pass, and std does not", w.name, text)
			}
		}
	})
}

// encode returns a connection of HTTP/2 with one request, and what that says; nil if it is too long.
func encode(text string) (*message, []byte) {
	const longest = 16 << 10
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&out, nil), hpack.NewEncoder(&block)
	sent, pseudo := &message{}, map[string]string{}
	head, body, _ := strings.Cut(text, "\n\n")
	for line := range strings.SplitSeq(head, "\n") {
		name, value, _ := strings.Cut(line, "= ")
		// A bytes.Buffer takes everything.
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
		if strings.HasPrefix(name, ":") {
			pseudo[name] = value
		} else {
			sent.fields = append(sent.fields, field{strings.ToLower(name), strings.Trim(value, " \t")})
		}
	}
	if authority := pseudo[":authority"]; authority != "" || len(sent.get("host")) == 0 {
		sent.fields = append([]field{{"host", authority}}, sent.fields...)
	}
	sent.line, sent.body = pseudo[":method"]+" "+pseudo[":path"]+" HTTP/1.1", body
	if block.Len() > longest || len(body) > longest {
		return nil, nil
	}
	_ = framer.WriteSettings()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = framer.WriteData(1, true, []byte(body))
	}
	return sent, out.Bytes()
}

// exchangeHTTP2 sends what encode has made, and reads until that is answered.
func (w way) exchangeHTTP2(t *testing.T, encoded []byte) {
	t.Helper()
	conn := dial(t, w.address)
	defer func() { _ = conn.Close() }()
	// The proxy may stop reading at any byte.
	_, _ = conn.Write(encoded)
	for framer := http2.NewFramer(io.Discard, conn); ; {
		frame, err := framer.ReadFrame()
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			if frame.StreamEnded() {
				return
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: neither answer nor end", w.name)
		}
		if err != nil {
			return
		}
	}
}

// FuzzForwardedAnswer holds that an answer of which an independent reader knows what it means reaches the client as the
// same one, or as 502, or broken off if its trailer is not one. Answers of HTTP/1.0 are for the corpus, which lists what
// net/http makes of them.
func FuzzForwardedAnswer(f *testing.F) {
	for _, c := range corpus.Responses() {
		f.Add([]byte(c.Raw))
	}
	var answer atomic.Pointer[string]
	all := ways(f, func(*message) (string, bool) { return *answer.Load(), false })
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := &reader{Reader: bufio.NewReader(bytes.NewReader(raw))}
		sent, err := r.response("GET")
		if rest, _ := io.ReadAll(r.Reader); err != nil || len(rest) > 0 || sent.status() < 200 || strings.HasPrefix(sent.line, "HTTP/1.0") {
			return
		}
		text := string(raw)
		answer.Store(&text)
		for _, w := range all {
			conn := dial(t, w.address)
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			got, err := newReader(conn).response("GET")
			_ = conn.Close()
			switch {
			case err != nil && got == nil:
				t.Fatalf("%s: the client gets no answer for %q: %v", w.name, raw, err)
			case err != nil && slices.ContainsFunc(sent.trailer, func(f field) bool { return !phttp.MayTrail(f.name) }):
			case err != nil:
				t.Fatalf("%s: the client gets %v for %q", w.name, err, raw)
			case got.status() == 502 && len(got.get("weft-reason")) == 1:
			case got.status() != sent.status() || got.body != sent.body:
				t.Fatalf("%s: the client gets %q with %q for %q", w.name, got.line, got.body, raw)
			}
		}
	})
}
