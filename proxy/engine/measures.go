package engine

import (
	"net/http"
	"strings"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/ratelimit"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/session"
	"weft.dev/weft/proxy/wire"
)

// measures are what a policy asks of the proxy that has matched a route, before it chooses a backend.
type measures struct {
	// limits are the route's own; nil if there are none. Those of Services are in config.limits.
	limits *ratelimit.Limiter
	fault  *fault
}

// newMeasures compiles a policy that has passed validatePolicy.
func newMeasures(policy *wire.Policy, limits *ratelimit.Limiter) measures {
	m := measures{limits: limits}
	m.fault, _ = newFault(policy.Fault)
	return m
}

// measured takes the measures and tells whether the request has been answered.
func (x *exchange) measured(m measures) bool {
	return m.limits != nil && x.limited(m.limits, limitsOfRoute, x.asked) || x.faulted(m.fault)
}

// asked returns the request as the client sent it, before filters changed it.
func (x *exchange) asked() *phttp.Request {
	if x.original == nil {
		// It has passed the gate before.
		head, _, _ := x.gate(nil)
		x.original = &head
	}
	return x.original
}

func routeRef(r *wire.Route) wire.Ref { return wire.Ref{Kind: wire.KindRoute, Key: r.Key()} }
func backendRef(key string) wire.Ref  { return wire.Ref{Kind: wire.KindBackend, Key: key} }

// limitBackend takes over the rate limits of a Service, if it is this proxy that picks its endpoints.
func (c *change) limitBackend(ref wire.Ref, b *wire.Backend) {
	if b.Meshed && b.Namespace != c.engine.options.Namespace {
		c.limits.remove(ref)
		return
	}
	c.limit(ref, b.Policy)
}

// limit takes over the rate limits of a route or Service. What has been counted stays where the limit does.
func (c *change) limit(ref wire.Ref, policy *wire.Policy) {
	if policy == nil || len(policy.RateLimits) == 0 {
		c.limits.remove(ref)
		return
	}
	before := c.limits.get(ref)
	if before == nil || !ratelimit.Equal(before.Limits(), policy.RateLimits) {
		c.limits.set(ref, ratelimit.New(policy.RateLimits, before, time.Now()))
	}
}

// What rate limits are called towards clients.
const (
	limitsOfRoute   = "route"
	limitsOfService = "service"
)

// limitedByService is limited by the limits of the backend, if its pod is picked here. It sees the request as
// the Service will, since over the hop there is no other.
func (x *exchange) limitedByService() bool {
	limiter := x.engine.limitsOf(x.config, x.key, x.overHop)
	return limiter != nil && x.limited(limiter, limitsOfService, func() *phttp.Request { return &x.head })
}

// limitsOf returns the limits of a backend as far as they apply to what has come over the hop or not, nil if none do. The
// proxy beside a pod applies them to what its pod gets.
func (e *Engine) limitsOf(cfg *config, key string, overHop bool) *ratelimit.Limiter {
	limiter := cfg.limits.get(backendRef(key))
	if limiter == nil || !e.sidecar() || overHop {
		return limiter
	}
	if backend, ok := cfg.view.Backend(key); ok && backend.Meshed {
		return nil
	}
	return limiter
}

// limited takes a token of each limit, or answers the request if one of them is used up.
//
// Only refusals tell about limits. What is left is counted by each proxy for itself, and the client's next
// request may go to another one; of a limit without keys it would also tell how much others send.
func (x *exchange) limited(limiter *ratelimit.Limiter, name string, request func() *phttp.Request) bool {
	replicas := x.config.view.Replicas()
	if name == limitsOfService {
		replicas = x.config.view.Sharing(x.key)
	}
	exceeded := x.take(limiter, replicas, request)
	if len(exceeded) == 0 {
		return false
	}
	fields := limiter.Fields(name, exceeded)
	x.answer(reason.RateLimited,
		phttp.Field{Name: "RateLimit-Policy", Value: fields.Policy},
		phttp.Field{Name: "RateLimit", Value: fields.State},
		phttp.Field{Name: "Retry-After", Value: fields.RetryAfter},
	)
	return true
}

// take takes a token of each limit for a request of the exchange, or none.
func (x *exchange) take(limiter *ratelimit.Limiter, replicas int, request func() *phttp.Request) []ratelimit.Exceeded {
	return x.engine.take(limiter, replicas, func() string { return x.config.caller(x.r) }, request)
}

// take takes a token of each limit, which replicas share, for a request of a caller, or none.
func (e *Engine) take(limiter *ratelimit.Limiter, replicas int, caller func() string, request func() *phttp.Request) []ratelimit.Exceeded {
	verdict := limiter.Take(time.Now(), replicas, func(key wire.RateLimitKey) string {
		switch key.Type {
		case wire.RateLimitIdentity:
			return caller()
		case wire.RateLimitHeader:
			return strings.Join(request().Header.Values(key.Name), ",")
		case wire.RateLimitPath:
			return request().Path
		}
		return ""
	})
	if verdict.Crowded {
		e.metrics.RateLimitCrowded()
	}
	return verdict.Exceeded
}

// tooMany takes a token for what comes over the hop as bytes but is a request, because it asks for an
// upgrade. It has neither path nor headers here.
func (e *Engine) tooMany(cfg *config, c *hopConn, key string) bool {
	limiter := cfg.limits.get(backendRef(key))
	backend, ok := cfg.view.Backend(key)
	if limiter == nil || !ok || backend.Protocol == wire.ProtocolTCP {
		return false
	}
	nothing := func() *phttp.Request { return &phttp.Request{} }
	return len(e.take(limiter, cfg.view.Sharing(key), c.peer.String, nothing)) > 0
}

// caller returns the SPIFFE ID of the workload that a request comes from.
func (c *config) caller(r *http.Request) string {
	return c.peer(r).String()
}

// peer returns the workload that a request comes from, as it has been proven.
func (c *config) peer(r *http.Request) identity.PeerID {
	switch from := r.Context().Value(connKey{}).(type) {
	case *conn:
		return from.peer(c)
	case *hopConn:
		return from.peer
	}
	return identity.PeerID{}
}

// sender names the workload that a request comes from, if it is known. Many requests of a connection come from the same.
func (c *config) sender(r *http.Request) string {
	peer := c.peer(r)
	if peer.Namespace == "" {
		return ""
	}
	from, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return peer.String()
	}
	if known := from.sender.Load(); known != nil && known.peer == peer {
		return known.name
	}
	named := &sender{peer, peer.String()}
	from.sender.Store(named)
	return named.name
}

// sender is a workload and its name.
type sender struct {
	peer identity.PeerID
	name string
}

// peer returns the workload at the other end, in a configuration's trust domain.
func (c *conn) peer(cfg *config) identity.PeerID {
	return identity.PeerID{
		TrustDomain: cfg.mesh.TrustDomain, Namespace: c.source.Namespace, ServiceAccount: c.source.ServiceAccount,
	}
}

// validateMeasures refuses limits, faults and sessions that cannot be applied.
func validateMeasures(p *wire.Policy) error {
	if p == nil {
		return nil
	}
	if err := ratelimit.Check(p.RateLimits); err != nil {
		return err
	}
	if _, err := newFault(p.Fault); err != nil {
		return err
	}
	return session.Check(p.SessionPersistence)
}
