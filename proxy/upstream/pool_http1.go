package upstream

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"weft.dev/weft/proxy/h1"
	phttp "weft.dev/weft/proxy/http"
)

// http1Pool keeps idle HTTP/1.1 connections, the last used first, so that those not needed grow old.
type http1Pool struct {
	endpoint *endpoint

	mu      sync.Mutex
	idle    []*http1Lease // the longest idle first
	timer   *time.Timer   // closes what is idle too long; nil while nothing is idle
	drained bool
}

// http1Client speaks HTTP/1.1 on one connection: *http.ClientConn or *h1.Transport. The methods mean what those
// of the first do.
type http1Client interface {
	RoundTrip(*http.Request) (*http.Response, error)
	Reserve() error
	Available() int
	Err() error
	Close() error
}

// fieldSender is an http1Client that sends fields as they are and in their order.
type fieldSender interface {
	RoundTripFields(req *http.Request, fields phttp.Header) (*http.Response, error)
}

// http1Lease is a connection, and the right to use it while it is not in the pool.
type http1Lease struct {
	pool   *http1Pool // nil if it is never pooled
	client http1Client
	conn   *http1Conn
	since  time.Time // idle since; zero before the first use
}

func (p *http1Pool) acquire(ctx context.Context, to Endpoint, fresh bool) (lease, error) {
	if !fresh {
		if l := p.reuse(); l != nil {
			return l, nil
		}
	}
	to.makeRoom()
	d, cancel := to.startDialing(ctx)
	defer cancel()
	raw, err := d.tcp()
	if err != nil {
		return nil, err
	}
	setUserTimeout(raw, userTimeout)
	return d.http1(p, raw)
}

// reuse takes an idle connection that is still good, nil if there is none.
func (p *http1Pool) reuse() *http1Lease {
	for {
		l := p.pop()
		if l == nil {
			return nil
		}
		if l.client.Reserve() == nil {
			l.conn.begin()
			return l
		}
		l.discard() // the peer has closed it meanwhile
	}
}

// http1 makes a connection ready for its first request. pool may be nil: then it is for one request.
func (d dialing) http1(p *http1Pool, raw net.Conn) (*http1Lease, error) {
	counted := newHTTP1Conn(raw)
	e := d.endpoint
	client, err := e.set.newHTTP1Client(d.limited, counted, e.address.String())
	if err == nil {
		err = client.Reserve()
	}
	if err != nil {
		closeQuietly(raw)
		return nil, d.failed(ReasonConnect, err)
	}
	counted.begin()
	return &http1Lease{pool: p, client: client, conn: counted}, nil
}

func (s *Set) newHTTP1Client(ctx context.Context, c *http1Conn, address string) (http1Client, error) {
	if s.options.OwnHTTP1 {
		return h1.NewTransport(c), nil
	}
	return s.http1.NewClientConn(withConn(ctx, c), "http", address)
}

// pop takes the last used connection.
func (p *http1Pool) pop() *http1Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	l := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.endpoint.set.idle.Add(-1)
	return l
}

// push keeps a connection for reuse and tells whether it could.
func (p *http1Pool) push(l *http1Lease) bool {
	options := &p.endpoint.set.options
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drained || len(p.idle) >= options.MaxIdlePerEndpoint {
		return false
	}
	if int(p.endpoint.set.idle.Add(1)) > options.MaxIdle {
		p.endpoint.set.idle.Add(-1)
		return false
	}
	l.since = time.Now()
	p.idle = append(p.idle, l)
	if p.timer == nil {
		p.timer = time.AfterFunc(options.IdleTimeout, p.expire)
	}
	return true
}

// expire closes connections that were idle too long.
func (p *http1Pool) expire() {
	timeout := p.endpoint.set.options.IdleTimeout
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].since) >= timeout {
		n++
	}
	expired := p.takeLocked(n)
	if len(p.idle) > 0 {
		p.timer = time.AfterFunc(timeout-time.Since(p.idle[0].since), p.expire)
	} else {
		p.timer = nil
	}
	p.mu.Unlock()
	for _, l := range expired {
		l.discard()
	}
}

// takeLocked removes the n connections that are idle the longest.
func (p *http1Pool) takeLocked(n int) []*http1Lease {
	taken := p.idle[:n]
	p.idle = append([]*http1Lease(nil), p.idle[n:]...)
	p.endpoint.set.idle.Add(int32(-n))
	return taken
}

func (p *http1Pool) closeIdle() {
	p.mu.Lock()
	closed := p.takeLocked(len(p.idle))
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for _, l := range closed {
		l.discard()
	}
}

func (p *http1Pool) drain() {
	p.mu.Lock()
	p.drained = true
	p.mu.Unlock()
	p.closeIdle()
}

func (l *http1Lease) roundTrip(req *http.Request, fields phttp.Header) (*http.Response, error) {
	if own, ok := l.client.(fieldSender); ok && fields != nil {
		return own.RoundTripFields(req, fields)
	}
	return l.client.RoundTrip(req)
}

func (l *http1Lease) reused() bool { return !l.since.IsZero() }

func (l *http1Lease) alive() bool { return l.client.Err() == nil }

func (l *http1Lease) failure(error) (Reason, bool) {
	switch {
	case l.conn.nothingSent() && l.alive():
		return ReasonRequest, true
	case l.conn.nothingSent(), l.conn.closedBefore():
		return ReasonStale, true
	case l.conn.broken.Load() || l.conn.nothingReceived():
		return ReasonReset, false
	default:
		return ReasonProtocol, false
	}
}

// release puts the connection back if net/http found it reusable: the request was written, the response
// read, and neither side asked to close.
func (l *http1Lease) release() {
	if l.pool == nil || l.client.Available() == 0 || !l.pool.push(l) {
		l.discard()
	}
}

func (l *http1Lease) discard() { closeQuietly(l.client) }
