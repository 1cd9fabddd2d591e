package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"

	"weft.dev/weft/proxy/h2"
	phttp "weft.dev/weft/proxy/http"
)

// maxRenewals bounds how often one request connects again because its certificate was replaced while it
// did.
const maxRenewals = 3

// http2Pool holds HTTP/2 connections, plain ones to a pod or those of one source identity to a proxy.
// Requests share the first connection that has a stream left; if none has, another is made.
type http2Pool struct {
	endpoint *endpoint
	key      poolKey

	mu      sync.Mutex
	conns   []*http2Conn
	call    *dialCall   // the connection being made; nil if none is
	config  *tls.Config // that conns were made with; nil in plain text
	drained bool
}

// dialCall is a connection being made for all who wait for it. It goes on when they give up, because the
// next request will want it; but not in a drained pool.
type dialCall struct {
	to      Endpoint // as the first of them wanted it
	config  *tls.Config
	waiting int // guarded by the pool's mutex
	cancel  context.CancelFunc
	done    chan struct{} // closed at the end
	err     error         // set before done is closed
}

// http2Conn is a connection; retired ones take no new requests and are closed after the last.
type http2Conn struct {
	client  http2Client
	retired atomic.Bool
	used    atomic.Bool
	// release is called when the connection has ended, any number of times.
	release func()
}

// acquire needs no care for fresh: a connection that is closed or closing has no stream left.
func (p *http2Pool) acquire(ctx context.Context, to Endpoint, _ bool) (lease, error) {
	for renewals := 0; ; {
		l, call, err := p.tryAcquire(to)
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-call.done:
			if call.err == nil {
				continue
			}
			if renewals++; renewals > maxRenewals || !p.renewed(call) {
				return nil, call.err
			}
		case <-ctx.Done():
			p.giveUp(call)
			return nil, &Error{
				Reason: contextReason(ctx), Endpoint: p.endpoint.address, NotSent: true,
				Err: fmt.Errorf("waiting for a connection: %w", context.Cause(ctx)),
			}
		}
	}
}

// take reserves a stream on a connection that is there, nil if there is none that could.
func (p *http2Pool) take() *http2Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drained {
		return nil // there each connection is for one request
	}
	c, _ := p.reserveLocked()
	return c
}

// reserveLocked reserves a stream on a connection with the present certificate, nil if none has one left.
func (p *http2Pool) reserveLocked() (*http2Conn, error) {
	// Asked with the pool locked, so that the answers are used in the order in which they were given.
	config, err := p.currentConfig()
	if err != nil {
		return nil, err
	}
	if p.config != config {
		// The certificate was renewed: requests under way finish on the old connections.
		p.retireLocked()
		p.config, p.call = config, nil
	}
	p.conns = slices.DeleteFunc(p.conns, func(c *http2Conn) bool {
		if c.client.Err() == nil {
			return false
		}
		c.release()
		return true
	})
	for _, c := range p.conns {
		if c.client.Reserve() == nil {
			return c, nil
		}
	}
	return nil, nil
}

// tryAcquire returns a lease, or a call to wait for before trying again.
func (p *http2Pool) tryAcquire(to Endpoint) (lease, *dialCall, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.reserveLocked()
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		return p.leaseLocked(c), nil, nil
	}
	if p.call == nil {
		if err := to.reserveShared(); err != nil {
			return nil, nil, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		p.call = &dialCall{to: to, config: p.config, cancel: cancel, done: make(chan struct{})}
		go p.connect(ctx, p.call)
	}
	p.call.waiting++
	return nil, p.call, nil
}

// renewed tells whether the certificate that a connection failed with has been replaced meanwhile: then
// the failure says nothing about the present one.
func (p *http2Pool) renewed(call *dialCall) bool {
	config, err := p.currentConfig()
	return err == nil && config != call.config
}

// giveUp is called by one who waits no longer.
func (p *http2Pool) giveUp(call *dialCall) {
	p.mu.Lock()
	defer p.mu.Unlock()
	call.waiting--
	if p.drained && call.waiting == 0 {
		call.cancel()
	}
}

// leaseLocked leases a reserved stream. In a drained pool each connection is for one request.
func (p *http2Pool) leaseLocked(c *http2Conn) lease {
	l := &http2Lease{conn: c, again: c.used.Swap(true)}
	if p.drained {
		p.retireLocked()
	}
	return l
}

// currentConfig asks for the source's present certificate; plain text has no configuration.
func (p *http2Pool) currentConfig() (*tls.Config, error) {
	if p.key.protocol != poolHop {
		return nil, nil
	}
	return p.endpoint.set.clientConfig(p.key, p.endpoint)
}

// clientConfig returns the TLS configuration for a source identity, or an *Error.
func (s *Set) clientConfig(key poolKey, e *endpoint) (*tls.Config, error) {
	err := errors.New("this proxy has no identities")
	if s.options.Identity != nil {
		var config *tls.Config
		if config, err = s.options.Identity.ClientConfig(key.serviceAccount, key.namespace, key.peer); err == nil {
			return config, nil
		}
	}
	return nil, &Error{Reason: ReasonIdentity, Endpoint: e.address, NotSent: true, Err: err}
}

// connect makes a connection and wakes those who wait for it.
func (p *http2Pool) connect(ctx context.Context, call *dialCall) {
	defer call.cancel()
	call.to.makeRoom()
	c, err := p.dial(ctx, call.to, call.config)
	if err != nil {
		call.to.releaseShared()
	} else {
		c.release = sync.OnceFunc(call.to.releaseShared)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		call.err = err
	case p.call != call, p.drained && call.waiting == 0, c.retired.Load():
		c.retire() // its certificate was replaced meanwhile, nobody wants it any longer, or its root was dropped
	default:
		p.conns = append(p.conns, c)
	}
	if p.call == call {
		p.call = nil
	}
	close(call.done)
}

func (p *http2Pool) dial(ctx context.Context, to Endpoint, config *tls.Config) (*http2Conn, error) {
	d, cancel := to.startDialing(ctx)
	defer cancel()
	if config == nil {
		raw, err := d.tcp()
		if err != nil {
			return nil, err
		}
		setUserTimeout(raw, userTimeout)
		if p.endpoint.set.options.OwnHTTP2 {
			return d.ownHTTP2(p.key.protocol, raw)
		}
		greeted := newGreetedConn(raw)
		return d.http2(p.endpoint.set.h2c, "http", greeted, greeted)
	}
	secured, err := d.tls(config, ALPNHTTP2)
	if err != nil {
		return nil, err
	}
	var c *http2Conn
	if p.endpoint.set.options.OwnHTTP2 {
		c, err = d.ownHTTP2(p.key.protocol, secured)
	} else {
		greeted := newGreetedConn(secured)
		c, err = d.http2(p.endpoint.set.hop, "https", securedConn{greeted, secured}, greeted)
	}
	if err == nil {
		context.AfterFunc(secured.dropped, func() { p.retire(c) })
	}
	return c, err
}

// http2 starts HTTP/2 on a connection and waits for the peer's SETTINGS: a peer that refuses our
// certificate, speaks another protocol or accepts without serving shows it here, before a request is sent.
func (d dialing) http2(transport *http.Transport, scheme string, c net.Conn, greeted *greetedConn) (*http2Conn, error) {
	client, err := transport.NewClientConn(withConn(d.limited, c), scheme, d.address)
	if err != nil {
		closeQuietly(c)
		return nil, d.failed(ReasonConnect, err)
	}
	select {
	case <-greeted.greeted:
		err = greeted.err
	case <-d.limited.Done():
		err = errors.New("no answer to the HTTP/2 preface")
	}
	if err != nil {
		closeQuietly(client)
		reason := ReasonConnect
		switch {
		case errors.Is(err, errNotHTTP2):
			reason = ReasonProtocol
		case scheme == "https":
			reason = handshakeReason(err)
		}
		return nil, d.failed(reason, err)
	}
	conn := &http2Conn{client: client, release: func() {}}
	client.SetStateHook(func(*http.ClientConn) { conn.closeIfDone() })
	return conn, nil
}

// retire takes one connection out of use.
func (p *http2Pool) retire(c *http2Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(other *http2Conn) bool { return other == c })
	c.retire()
}

func (p *http2Pool) retireLocked() {
	for _, c := range p.conns {
		c.retire()
	}
	p.conns = nil
}

func (p *http2Pool) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drained = true
	p.retireLocked()
	if p.call != nil && p.call.waiting == 0 {
		p.call.cancel()
	}
}

func (p *http2Pool) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c *http2Conn) bool {
		if c.client.InFlight() > 0 {
			return false
		}
		c.retire()
		return true
	})
}

// retire is called with the pool locked, so that nobody reserves a stream at the same time.
func (c *http2Conn) retire() {
	c.retired.Store(true)
	c.closeIfDone()
}

func (c *http2Conn) closeIfDone() {
	if c.retired.Load() && c.client.InFlight() == 0 {
		closeQuietly(c.client)
		c.release()
	}
}

// http2Lease is the right to use one stream.
type http2Lease struct {
	conn  *http2Conn
	again bool
	wrote atomic.Bool // the request's header was at least partly written
}

func (l *http2Lease) roundTrip(req *http.Request, _ phttp.Header) (*http.Response, error) {
	if own, ok := l.conn.client.(*h2.Client); ok {
		l.wrote.Store(true) // its errors tell if not
		return own.RoundTrip(req)
	}
	trace := &httptrace.ClientTrace{WroteHeaders: func() { l.wrote.Store(true) }}
	return l.conn.client.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

func (l *http2Lease) reused() bool { return l.again }

func (l *http2Lease) alive() bool {
	return l.conn.client.Err() == nil && l.conn.client.Available() > 0
}

func (l *http2Lease) failure(err error) (Reason, bool) {
	if own, ok := errors.AsType[*h2.Error](err); ok {
		return l.ownFailure(own)
	}
	if http2Unprocessed(err) {
		return ReasonRefused, true
	}
	if !l.wrote.Load() {
		if l.alive() {
			return ReasonRequest, true
		}
		return ReasonStale, true
	}
	if stream, ok := errors.AsType[streamError](err); ok && !stream.fromPeer() {
		return ReasonProtocol, false // we reset the stream for what the peer sent
	}
	return ReasonReset, false
}

func (l *http2Lease) release() { l.conn.closeIfDone() }

func (l *http2Lease) discard() { l.conn.closeIfDone() }
