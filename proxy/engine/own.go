package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"

	"weft.dev/weft/proxy/h1"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
)

// newOwnServer returns the server of HTTPWeft. The exchanges are those of net/http's server: package h1 speaks the
// protocol, and everything else is decided in one place.
func (e *Engine) newOwnServer() *h1.Server {
	return &h1.Server{
		Handle:      e.serveOwn,
		Refuse:      e.refuseOwn,
		Preface:     e.servePreface,
		HeadTimeout: headerTimeout,
		IdleTimeout: idleTimeout,
		Failed: func(panicked any) {
			e.options.Log.Error("Panic while serving a request", "panic", fmt.Sprint(panicked))
		},
	}
}

// serveOwnConn serves a client's connection until it ends.
func (e *Engine) serveOwnConn(c *conn) {
	c.lengths.off = true // package h1 refuses what they are counted for
	if err := e.own.Serve(c); err != nil {
		c.abort()
	}
}

// servePreface passes a client that speaks HTTP/2 on to net/http's server.
func (e *Engine) servePreface(raw net.Conn, first []byte) {
	c, _ := raw.(*conn)
	c.Conn = &buffer{Conn: c.Conn, reader: io.MultiReader(bytes.NewReader(first), c.Conn)}
	e.serveStd(c)
}

// serveOwn serves one request of a client.
func (e *Engine) serveOwn(hc *h1.Conn) {
	c, _ := hc.NetConn().(*conn)
	ctx, cancel := context.WithCancel(withConn(e.base, c))
	defer cancel()
	hc.OnGone(cancel)
	w, r := hc.HTTP(ctx)
	e.serveCaptured(w, r)
	w.EndHTTP()
}

// refusals are what clients are told about requests that are not valid.
var refusals = map[h1.Fault]reason.Reason{
	h1.Malformed:          reason.BadRequest,
	h1.TooLarge:           reason.HeaderTooLarge,
	h1.VersionUnsupported: reason.VersionUnsupported,
	h1.ExpectationFailed:  reason.ExpectationFailed,
	h1.CodingUnsupported:  reason.CodingUnsupported,
}

// refuseOwn answers a request that is not valid.
func (e *Engine) refuseOwn(hc *h1.Conn, failed *h1.Error) {
	c, _ := hc.NetConn().(*conn)
	c.begun()
	e.options.Log.Debug("Refused a request", "client", c.client.String(), "error", failed)
	why := refusals[failed.Fault]
	said := reason.Of(why)
	e.metrics.LocalResponse(string(why))
	e.logFailure(why, "destination", c.target.key, "status", said.Status)
	c.target.plain.unanswered.Request(&telemetry.Outcome{Caller: c.caller, Status: said.Status, Error: string(why)})
	res, body := localResponse(&said, false)
	if err := hc.WriteHead(&res, int64(len(body))); err == nil {
		// The client may have gone; there is nobody to tell.
		_, _ = hc.Write([]byte(body))
	}
}
