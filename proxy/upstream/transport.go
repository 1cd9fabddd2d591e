package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// HTTP/2 flow control. A stream whose body nobody reads holds at most its own window, so on the hop the
// connection's window is that of all streams together, and the others always have room.
const (
	hopStreams    = 128
	streamWindow  = 256 << 10
	hopConnWindow = hopStreams * streamWindow
	hopFrame      = 64 << 10
)

const (
	// userTimeout ends connections to pods whose host is gone while a request is under way. It also ends
	// those whose peer reads nothing for so long, so it must exceed any pause of a living application.
	userTimeout = 30 * time.Second
	// The hop asks a silent peer for a sign of life. Pods are not asked: gRPC servers close connections
	// that send many pings.
	hopPingAfter   = time.Second
	hopPingTimeout = 2 * time.Second

	maxResponseHeader = 256 << 10
	continueTimeout   = time.Second
)

// Source is the pod that a request comes from.
type Source struct {
	// ServiceAccount selects the certificate presented on the hop. Only the hop needs it.
	ServiceAccount string
	// Address is the pod's own address and port, forwarded over the hop.
	Address netip.AddrPort
	// Zone is the source's zone, forwarded over the hop; empty means this proxy's own.
	Zone string
	// Node is the source's node, forwarded over the hop; empty if not known.
	Node string
}

// Call is what a try needs beyond the request itself. All of it but Source.ServiceAccount and Fields only
// travels as metadata of the hop.
type Call struct {
	Source Source
	// Deadline ends the whole request, all tries included; zero means none.
	Deadline time.Time
	// StreamDeadline takes its place once a response of unknown length has begun; zero means that it
	// stays.
	StreamDeadline time.Time
	// Attempt counts tries from zero.
	Attempt int
	// Avoid are endpoints that earlier tries ended at. Only the first MaxAvoid travel.
	Avoid []netip.AddrPort
	// Session, Debug and Caller are those of Metadata.
	Session string
	Debug   bool
	Caller  string
	// Fields is the request's header as it is to be sent where the protocol keeps the bytes and the order of
	// fields; nil if that of the request will do.
	Fields phttp.Header
}

// newTransports returns the protocol implementations. They keep no connections: pools make each with
// NewClientConn, so that nothing but this package decides which connection carries a request, and
// net/http's own retries (which repeat idempotent requests that may have been processed) never happen.
func newTransports(o Options) (http1, h2c, hop *http.Transport) {
	base := func(protocols func(*http.Protocols)) *http.Transport {
		t := &http.Transport{
			DialContext:            takeConn,
			DialTLSContext:         takeConn,
			DisableCompression:     true,
			ExpectContinueTimeout:  continueTimeout,
			IdleConnTimeout:        o.IdleTimeout,
			MaxResponseHeaderBytes: maxResponseHeader,
			Protocols:              new(http.Protocols),
			// The connection's receive window is left at net/http's 1 GiB, which holds all streams.
			HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindow},
		}
		protocols(t.Protocols)
		return t
	}
	http1 = base(func(p *http.Protocols) { p.SetHTTP1(true) })
	h2c = base(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	hop = base(func(p *http.Protocols) { p.SetHTTP2(true) })
	hop.HTTP2.SendPingTimeout, hop.HTTP2.PingTimeout = hopPingAfter, hopPingTimeout
	return http1, h2c, hop
}

// HopServerHTTP2 returns the HTTP/2 settings for the listener at wire.PortHop. Stream limit and windows
// belong together: the connection window holds every stream's, so that streams whose bodies nobody reads
// cannot stop the others.
func HopServerHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          hopStreams,
		MaxReadFrameSize:              hopFrame,
		MaxReceiveBufferPerStream:     streamWindow,
		MaxReceiveBufferPerConnection: hopConnWindow,
		SendPingTimeout:               5 * time.Second,
		PingTimeout:                   5 * time.Second,
	}
}

// RoundTrip sends req to the endpoint and returns the response's head; it never follows a redirect, never
// decompresses, and takes no proxy from the environment. A request that provably was not processed because
// a reused connection was closing is sent once more on another connection to the same endpoint, if nothing
// of its body was read; nothing else is repeated. Failures are of type *Error.
//
// The endpoint and its Backend decide the protocol: HTTP/1.1 or HTTP/2 with prior knowledge in plain text
// for pods, HTTP/2 over mutual TLS for the hop. gRPC exists over HTTP/2 alone, so it is sent to pods that
// way whatever the Backend says. Scheme and host of req.URL are replaced; Host, Header, Body,
// ContentLength and Trailer are sent as they are, except that header fields named weft-* are removed on the
// way to pods and set on the hop. Of what pods answer they are removed too, in headers and trailers. req
// itself is not modified and no User-Agent is invented.
//
// A request with an Upgrade field takes an HTTP/1.1 connection of its own, over the hop as well, where the
// receiver sees an opaque connection. The Body of a 101 response is an io.ReadWriteCloser with CloseWrite
// and belongs to the caller.
//
// The Body of the request is closed, except when the returned Error says BodyIntact: then nothing was read
// from it and the caller may send it elsewhere. The Body of the response must be closed; reading it to its
// end before is what makes an HTTP/1.1 connection reusable.
func (s *Set) RoundTrip(ctx context.Context, to Endpoint, call Call, req *http.Request) (*http.Response, error) {
	e := to.state
	grpc, upgrade := isGRPC(req.Header.Get("Content-Type")), req.Header.Get("Upgrade") != ""
	begin := s.elapsed()
	e.asked(begin)
	t := &try{
		set: s, to: to, call: call, started: begin, upgrade: upgrade, grpc: grpc,
		slot: to.claim(exclusive(to.target.backend.Protocol, grpc, upgrade)),
	}
	resp, err := t.send(ctx, req)
	if err != nil {
		t.slot.release()
		t.failedToAnswer(ctx, err)
		return nil, err
	}
	e.answered(t.took, begin+t.took)
	return resp, nil
}

// failedToAnswer tells the endpoint of a try without a response.
func (t *try) failedToAnswer(ctx context.Context, failure *Error) {
	e, took := t.to.state, t.elapsed()
	e.failed(failure, took, t.started+took)
	if (failure.Reason == ReasonTimeout || failure.Reason == ReasonCanceled) && !failure.NotSent {
		e.outlasted(took)
	}
	t.judge(t.blame(ctx, failure.Reason, failure.Err))
}

// try is one RoundTrip.
type try struct {
	set     *Set
	to      Endpoint
	slot    slot
	call    Call
	upgrade bool
	grpc    bool
	// started is when the try began, in the time of the Set, took how long the response's head took.
	started, took time.Duration
	judged        bool
}

// elapsed is how long the try has taken.
func (t *try) elapsed() time.Duration { return t.set.elapsed() - t.started }

func (t *try) send(ctx context.Context, req *http.Request) (*http.Response, *Error) {
	for repeated := false; ; repeated = true {
		body := newRequestBody(req)
		l, err := t.acquire(ctx, repeated)
		if err != nil {
			return nil, t.failed(err, body)
		}
		resp, err := l.roundTrip(t.outgoing(ctx, req, body), t.fields())
		if err == nil {
			if failure := t.received(ctx, resp, l); failure != nil {
				return nil, t.failed(failure, body)
			}
			body.settle()
			return resp, nil
		}
		failure := t.classify(ctx, l, body, err)
		again := !repeated && failure.NotSent && l.reused() && !l.alive() && ctx.Err() == nil
		l.discard()
		if failure = t.failed(failure, body); !again || !failure.BodyIntact {
			return nil, failure
		}
	}
}

// isGRPC tells whether a content type is that of gRPC, which may name a message format. That of gRPC-Web,
// which is another protocol, begins with the same letters.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(contentType), "application/grpc")
	return ok && (rest == "" || strings.IndexByte("+; ", rest[0]) >= 0)
}

// acquire returns a connection for the endpoint's protocol.
func (t *try) acquire(ctx context.Context, fresh bool) (lease, error) {
	backend := t.to.target.backend
	if backend.Protocol == wire.ProtocolTCP {
		return nil, &Error{
			Reason: ReasonRequest, Endpoint: t.to.state.address, NotSent: true,
			Err: fmt.Errorf("backend %s does not speak HTTP", t.to.target.key),
		}
	}
	if t.upgrade {
		return t.acquireUpgrade(ctx)
	}
	key := poolKey{protocol: poolHTTP1}
	switch {
	case t.to.Hop():
		key = t.to.hopKey(t.call)
	case backend.Protocol == wire.ProtocolH2C, t.grpc:
		key.protocol = poolH2C
	}
	return t.to.state.pool(key).acquire(ctx, t.to, fresh)
}

// acquireUpgrade makes a connection for one request that will turn into something else.
func (t *try) acquireUpgrade(ctx context.Context) (lease, error) {
	raw, err := t.set.dialOpaque(ctx, t.to, t.call)
	if err != nil {
		return nil, err
	}
	d, cancel := t.to.startDialing(ctx)
	defer cancel()
	l, err := d.http1(nil, raw)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// outgoing returns the request as it goes out. Its header is a copy: net/http may still read it in the
// background after a failure, when the caller prepares the next try.
func (t *try) outgoing(ctx context.Context, req *http.Request, body *requestBody) *http.Request {
	out := req.WithContext(ctx)
	out.Header = req.Header.Clone()
	if out.Header == nil {
		out.Header = http.Header{}
	}
	target := *req.URL
	target.Scheme, target.Host = "http", t.to.state.address.String()
	if out.Host == "" {
		out.Host = req.URL.Host
	}
	out.URL = &target
	out.GetBody = nil
	// Without a version net/http ignores Expect: 100-continue.
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	if body != nil {
		out.Body = body
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // keeps net/http from adding its own
	}
	if t.to.Hop() && !t.upgrade {
		target.Scheme = "https"
		SetMetadata(out.Header, t.set.metadata(t.to, t.call))
	} else {
		StripMetadata(out.Header)
	}
	return out
}

// fields returns the header for a connection that keeps its bytes: only those to pods do.
func (t *try) fields() phttp.Header {
	if t.call.Fields == nil {
		return nil
	}
	fields := t.call.Fields.Clone()
	phttp.StripInternal(&fields)
	return fields
}

// metadata describes a call for the hop.
func (s *Set) metadata(to Endpoint, call Call) Metadata {
	m := Metadata{
		Backend: to.target.key, Attempt: call.Attempt, Zone: call.Source.Zone, Node: call.Source.Node,
		Client: call.Source.Address, Avoid: call.Avoid, Session: call.Session, Debug: call.Debug, Caller: call.Caller,
	}
	if m.Zone == "" {
		m.Zone = s.options.Zone
	}
	if !call.Deadline.IsZero() {
		m.TimeLeft = max(time.Millisecond, time.Until(call.Deadline))
	}
	if !call.StreamDeadline.IsZero() {
		m.StreamTimeLeft = max(time.Millisecond, time.Until(call.StreamDeadline))
	}
	return m
}

// classify turns an error of a connection into what is known about the request.
func (t *try) classify(ctx context.Context, l lease, body *requestBody, err error) *Error {
	failure := &Error{Endpoint: t.to.state.address, Err: err}
	failure.Reason, failure.NotSent = l.failure(err)
	if ended := contextReason(ctx); ended != 0 {
		// HTTP/2 may still write the header in the background.
		_, exact := l.(*http1Lease)
		failure.Reason, failure.NotSent = ended, failure.NotSent && exact
	} else if cause := body.failure(); cause != nil {
		failure.Reason, failure.Err = ReasonRequestBody, cause
	}
	return failure
}

// failed completes an error of acquire or classify: either the body goes back to the caller, or it is
// closed.
func (t *try) failed(err error, body *requestBody) *Error {
	failure, ok := errors.AsType[*Error](err)
	if !ok {
		failure = &Error{Reason: ReasonConnect, Endpoint: t.to.state.address, NotSent: true, Err: err}
	}
	// Waiters for one connection share its failure, so it must not be changed.
	own := *failure
	own.BodyIntact = body.takeBack()
	if !own.BodyIntact {
		body.settle()
		closeQuietly(body)
	}
	return &own
}

// received prepares a response for the caller: its connection goes back when the response ends. It fails
// if the response says that the request was not processed.
func (t *try) received(ctx context.Context, resp *http.Response, l lease) error {
	e := t.to.state
	t.took = t.elapsed()
	if err := checkResponse(resp, l); err != nil {
		closeQuietly(resp.Body)
		l.discard()
		return &Error{Reason: ReasonProtocol, Endpoint: e.address, Err: err}
	}
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		// With HTTP/2, net/http waits for the body that Content-Length speaks of.
		closeQuietly(resp.Body)
		resp.Body = http.NoBody
	}
	if t.to.Hop() && !t.upgrade && resp.StatusCode == StatusNotProcessed && resp.Header[FieldNotProcessed] != nil {
		reason := resp.Header.Get(FieldNotProcessed)
		closeQuietly(resp.Body)
		l.release()
		return &Error{
			Reason: ReasonRefused, Endpoint: e.address, NotSent: true,
			Err: rejection{reason},
		}
	}
	foreign := !t.to.Hop() || t.upgrade
	if foreign {
		// What an application says is not taken for a proxy's word. The proxy at the other end of the
		// hop has done the same, so that what is left is its own.
		StripMetadata(resp.Header)
		StripMetadata(resp.Trailer)
	}
	t.judgeHead(resp.StatusCode, resp.Header.Get(fieldGRPCStatus))
	end := func(err error) {
		if err == nil && foreign {
			StripMetadata(resp.Trailer)
		}
		rpc := ""
		if err == nil {
			rpc = resp.Trailer.Get(fieldGRPCStatus)
		}
		t.judgeEnd(ctx, rpc, err)
		if err == nil {
			l.release()
		} else {
			l.discard()
		}
		// Only now, so that whoever waits for it finds the connection.
		t.slot.release()
	}
	writable, upgraded := resp.Body.(io.ReadWriteCloser)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols && upgraded:
		resp.Body = &upgradedBody{ReadWriteCloser: writable, end: t.slot.release}
	case resp.Body == http.NoBody, resp.ContentLength == 0:
		end(nil)
	default:
		resp.Body = &responseBody{ReadCloser: resp.Body, end: end}
	}
	return nil
}
