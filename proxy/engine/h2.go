package engine

import (
	"fmt"
	"net"
	"time"

	"weft.dev/weft/proxy/h2"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
)

// clientLimits bound what clients may do, as net/http's server does as far as it has these bounds.
var clientLimits = h2.Limits{
	StreamWindow: clientStreamWindow, ConnWindow: clientStreams * clientStreamWindow, MaxFrame: clientFrame,
	MaxHead: maxHeaderBytes, Resets: 1000, ResetsPerSecond: 200,
	PingAfter: 30 * time.Second, PingTimeout: 15 * time.Second, IdleTimeout: idleTimeout, HeadTimeout: headerTimeout,
}

// newOwnHTTP2 returns a server of HTTPWeft for HTTP/2, whose exchanges are those of net/http's server.
func (e *Engine) newOwnHTTP2(streams int, limits h2.Limits, serve func(*exchange)) *h2.Server {
	return &h2.Server{
		Handle:  func(s *h2.Stream) { e.serveStream(s, serve) },
		Refuse:  e.refuseOwnHTTP2,
		Streams: streams,
		Limits:  limits,
		Failed: func(panicked any) {
			e.options.Log.Error("Panic while serving a request", "panic", fmt.Sprint(panicked))
		},
	}
}

// startOwnServers makes the servers of HTTPWeft.
func (e *Engine) startOwnServers() {
	e.own = e.newOwnServer()
	e.ownHTTP2 = e.newOwnHTTP2(clientStreams, clientLimits, e.capture)
	streams, limits := upstream.HopServerLimits()
	limits.MaxHead, limits.IdleTimeout, limits.HeadTimeout = maxHeaderBytes, idleTimeout, headerTimeout
	e.ownHop = e.newOwnHTTP2(streams, limits, e.receive)
}

// refuseOwnHTTP2 counts a request that is not valid, and answers it if it has a stream to answer on.
func (e *Engine) refuseOwnHTTP2(raw net.Conn, s *h2.Stream, failed *h2.Error) {
	why := reason.BadRequest
	if s != nil {
		why = reason.HeaderTooLarge
	}
	said := reason.Of(why)
	e.options.Log.Debug("Refused a request", "client", raw.RemoteAddr().String(), "error", failed)
	e.metrics.LocalResponse(string(why))
	if c, ok := raw.(*conn); ok {
		c.begun()
		e.logFailure(why, "destination", c.target.key, "status", said.Status)
		c.target.plain.unanswered().Request(&telemetry.Outcome{Caller: c.caller, Status: said.Status, Error: string(why)})
	}
	if s == nil {
		return
	}
	res, body := localResponse(&said, false)
	if err := s.WriteHead(&res, int64(len(body))); err == nil {
		// The client may have gone; there is nobody to tell.
		_, _ = s.Write([]byte(body))
	}
}
