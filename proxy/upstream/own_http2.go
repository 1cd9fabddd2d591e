package upstream

import (
	"errors"
	"net"
	"net/http"
	"time"

	"weft.dev/weft/proxy/h2"
)

// http2Client speaks HTTP/2 on one connection: *http.ClientConn or *h2.Client. The methods mean what those of the first
// do.
type http2Client interface {
	RoundTrip(*http.Request) (*http.Response, error)
	Reserve() error
	Available() int
	InFlight() int
	Err() error
	Close() error
}

// notPinged is a time after which nothing happens.
const notPinged = 100 * 365 * 24 * time.Hour

// ownLimits bound what a server may do.
func (s *Set) ownLimits(protocol poolProtocol) h2.Limits {
	limits := h2.Limits{
		StreamWindow: streamWindow, ConnWindow: 1 << 30, MaxFrame: 16 << 10, MaxHead: maxResponseHeader,
		PingAfter: notPinged, PingTimeout: notPinged, IdleTimeout: s.options.IdleTimeout, HeadTimeout: 30 * time.Second,
	}
	if protocol == poolHop {
		limits.MaxFrame, limits.PingAfter, limits.PingTimeout = hopFrame, hopPingAfter, hopPingTimeout
	}
	return limits
}

// HopServerLimits are HopServerHTTP2 for a server of package h2, as far as the hop decides about them. The proxies of
// another namespace send the requests of many clients, which may all be given up at once.
func HopServerLimits() (streams int, limits h2.Limits) {
	c := HopServerHTTP2()
	return c.MaxConcurrentStreams, h2.Limits{
		StreamWindow: c.MaxReceiveBufferPerStream, ConnWindow: c.MaxReceiveBufferPerConnection, MaxFrame: c.MaxReadFrameSize,
		Resets: 20_000, ResetsPerSecond: 5_000, PingAfter: c.SendPingTimeout, PingTimeout: c.PingTimeout,
	}
}

// ownHTTP2 is http2 with package h2.
func (d dialing) ownHTTP2(protocol poolProtocol, c net.Conn) (*http2Conn, error) {
	conn := &http2Conn{release: func() {}}
	client := h2.NewClient(c, d.endpoint.set.ownLimits(protocol))
	if err := client.Greeted(d.limited); err != nil {
		closeQuietly(client)
		reason := ReasonConnect
		switch {
		case errors.Is(err, h2.ErrNotHTTP2):
			reason = ReasonProtocol
		case protocol == poolHop:
			reason = handshakeReason(err)
		}
		return nil, d.failed(reason, err)
	}
	conn.client = client
	client.OnChange(conn.closeIfDone)
	return conn, nil
}

// ownFailure says what an error of package h2 means; see lease.
func (l *http2Lease) ownFailure(err *h2.Error) (Reason, bool) {
	switch {
	case err.Unsent && err.Unprocessed:
		return ReasonStale, true
	case err.Unsent:
		return ReasonRequest, true
	case err.Unprocessed:
		return ReasonRefused, true
	case err.Stream && !err.Remote:
		return ReasonProtocol, false // we reset the stream for what the peer sent
	}
	return ReasonReset, false
}

// Arrived tells whether some of a response's body, or its end, is known to be there already.
func Arrived(resp *http.Response) bool {
	body, ok := resp.Body.(*responseBody)
	if !ok {
		return false
	}
	own, ok := body.ReadCloser.(interface{ Arrived() bool })
	return ok && own.Arrived()
}

// ofStream tells whether an error is that of a stream alone, and not of its connection.
func ofStream(err error) bool {
	if _, stream := errors.AsType[streamError](err); stream {
		return true
	}
	own, ok := errors.AsType[*h2.Error](err)
	return ok && own.Stream
}
