package engine

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// Names of listeners in metrics.
const (
	listenerCaptured = telemetry.ListenerCaptured
	listenerHop      = telemetry.ListenerHop
)

// admit finds out what a connection is for and who sent it, and passes it on. What is to be done after
// that, if anything, is returned.
func (e *Engine) admit(l Listener, raw net.Conn) (serve func()) {
	c := newConn(raw, time.Now())
	if why := e.identify(l, c); why != "" {
		e.metrics.ConnectionRefused(listenerCaptured, string(why))
		e.options.Log.Debug("Refused a connection", "client", c.client.String(), "reason", string(why))
		if c.target == nil || c.target.Protocol == wire.ProtocolTCP {
			c.abort()
			return nil
		}
		// An HTTP client is told why.
		c.refused = why
	}
	c.release = e.metrics.ConnectionOpened(listenerCaptured, string(c.target.Protocol))
	if c.target.Protocol == wire.ProtocolTCP {
		return func() { e.relayTCP(c) }
	}
	e.fresh.begin()
	c.begun = sync.OnceFunc(e.fresh.end)
	if e.own != nil {
		return func() { e.serveOwnConn(c) }
	}
	e.serveStd(c)
	return nil
}

// serveStd passes a connection on to net/http's server.
func (e *Engine) serveStd(c *conn) {
	if err := e.requests.give(c); err != nil {
		c.abort()
	}
}

// identify fills in where a connection goes and where it comes from. It returns why the connection is
// refused, or "".
func (e *Engine) identify(l Listener, c *conn) reason.Reason {
	target, err := l.Target(c.Conn)
	if err != nil {
		if !errors.Is(err, errNotRedirected) {
			e.options.Log.Error("Cannot tell what a connection is for", "client", c.client.String(), "error", err)
		}
		return reason.NotCaptured
	}
	ctx, cancel := context.WithTimeout(e.base, e.options.DestinationWait)
	defer cancel()
	if c.target = e.awaitDestination(ctx, target); c.target == nil {
		return reason.UnknownDestination
	}
	if c.source = e.options.Source; c.source != nil {
		c.caller = e.metrics.Caller(c.source.Namespace, c.source.ServiceAccount)
		return ""
	}
	ctx, cancel = context.WithTimeout(e.base, e.options.SourceWait)
	defer cancel()
	if e.sidecar() {
		return e.identifyOwn(ctx, c)
	}
	source, err := e.workloads.Wait(ctx, c.client.Addr())
	if err != nil {
		return reason.UnknownSource
	}
	if source.Namespace != e.options.Namespace {
		return reason.ForeignSource
	}
	c.source = source
	c.caller = e.metrics.Caller(source.Namespace, source.ServiceAccount)
	return ""
}

// upstreamSource says who a request of this connection comes from. zone is the proxy's own: node agents
// prefer the proxies of their zone, so it is the best guess at that of a client whose zone is not known.
func (c *conn) upstreamSource(zone string) upstream.Source {
	return upstream.Source{
		ServiceAccount: c.source.ServiceAccount, Address: c.client,
		Zone: cmp.Or(c.source.Zone, zone), Node: c.source.Node,
	}
}
