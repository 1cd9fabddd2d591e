package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
)

// Limits of mirrored requests.
const (
	// maxMirrors bounds how many are under way; more are dropped, so that a slow mirror cannot hold the
	// proxy's memory.
	maxMirrors = 256
	// mirrorTimeout bounds one of them.
	mirrorTimeout = 15 * time.Second
)

// mirrors are the copies of one request that its filters ask for.
type mirrors struct {
	*exchange
	copies []phttp.Mirror
	sent   bool
}

// newMirrors returns the copies to send of x, none if no filter asks for any.
func (x *exchange) newMirrors() *mirrors {
	m := &mirrors{exchange: x}
	if x.filters != nil {
		m.copies = x.filters.Mirrors()
	}
	return m
}

// send starts all copies. It is called once, with the whole body.
func (m *mirrors) send(body []byte) {
	m.sent = true
	for i := range m.copies {
		to := &m.copies[i]
		if _, denied := m.forbids(to.Backend, &to.Request); denied || !m.within(to) {
			m.engine.metrics.Mirror(telemetry.MirrorDropped)
			continue
		}
		m.engine.mirror(m.picker(to), m.source, to, body)
	}
}

// picker returns how a copy finds its endpoint.
func (m *mirrors) picker(to *phttp.Mirror) picker {
	wish := newWish(m.config.view, to.Backend, &to.Request, m.source)
	return func(ctx context.Context) (upstream.Endpoint, *upstream.Set, error) {
		return m.chooser.choose(ctx, to.Backend, wish)
	}
}

// picker is a chooser for one backend and wish.
type picker func(ctx context.Context) (upstream.Endpoint, *upstream.Set, error)

// within tells whether a copy is within the rate limits of its Service, as far as they apply here.
func (m *mirrors) within(to *phttp.Mirror) bool {
	limiter := m.engine.limitsOf(m.config, to.Backend, m.overHop)
	return limiter == nil || len(m.take(limiter, m.config.view.Sharing(to.Backend), func() *phttp.Request { return &to.Request })) == 0
}

// end counts what was not sent. A body that is longer than what is kept, or that the backend did not
// want to the end, is not mirrored: its copy could only be sent at the pace of the original.
func (m *mirrors) end() {
	if m.sent {
		return
	}
	for range m.copies {
		m.engine.metrics.Mirror(telemetry.MirrorDropped)
	}
}

// mirror sends a copy of a request in the background and ignores the answer.
func (e *Engine) mirror(pick picker, source upstream.Source, m *phttp.Mirror, body []byte) {
	select {
	case e.mirroring <- struct{}{}:
	default:
		e.metrics.Mirror(telemetry.MirrorDropped)
		return
	}
	e.relays.begin()
	go func() {
		defer e.relays.end()
		defer func() { <-e.mirroring }()
		ctx, cancel := context.WithTimeout(e.base, mirrorTimeout)
		defer cancel()
		if err := sendMirror(ctx, pick, source, m, body); err != nil {
			e.options.Log.Debug("Cannot mirror a request", "backend", m.Backend, "error", err)
			e.metrics.Mirror(telemetry.MirrorFailed)
			return
		}
		e.metrics.Mirror(telemetry.MirrorSent)
	}()
}

func sendMirror(ctx context.Context, pick picker, source upstream.Source, m *phttp.Mirror, body []byte) error {
	endpoint, set, err := pick(ctx)
	if err != nil {
		return err
	}
	header := make(http.Header, len(m.Request.Header))
	for _, f := range m.Request.Header {
		header.Add(f.Name, f.Value)
	}
	// The copy is sent at once, whatever the original waits for, and stays plain HTTP.
	header.Del("Expect")
	header.Del("Upgrade")
	req := &http.Request{
		Method: m.Request.Method, URL: targetURL(&m.Request), Host: m.Request.Authority,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
	}
	if len(body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
	}
	res, err := set.RoundTrip(ctx, endpoint, upstream.Call{Source: source}, req.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	// Reading some of the answer lets the connection be used again.
	_, err = io.CopyN(io.Discard, res.Body, maxReplay)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
