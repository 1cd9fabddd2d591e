package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

func validateAuthorization(key string, a *wire.Authorization) error {
	if key != a.Key() {
		return fmt.Errorf("key is %q although the content is %q", key, a.Key())
	}
	_, err := authz.Compile(a)
	return err
}

// authorize takes over an authorization that has passed validateAuthorization.
func (c *change) authorize(r *wire.Resource) {
	policy, _ := authz.Compile(r.Authorization)
	c.authorizations.set(r.Key, policy)
}

// closeFor closes the targets of an authorization that has been rejected, unless its previous version is in
// force.
func (c *change) closeFor(r *wire.Resource) {
	if before := c.authorizations.get(r.Key); r.Kind != wire.KindAuthorization || before != nil && !before.Stopgap() {
		return
	}
	if closed := authz.Closed(r.Key, r.Authorization); closed != nil {
		c.authorizations.set(r.Key, closed)
	} else {
		c.authorizations.remove(r.Key)
	}
}

// forgotten tells whether nothing can be decided like this any more.
func (c *change) forgotten(d telemetry.Decision) bool {
	return c.backends.get(d.Destination) == nil || d.Policy != "" && c.authorizations.get(d.Policy) == nil
}

// unknownDestination is what metrics call a backend that is not configured: its name comes from a peer.
const unknownDestination = "_other"

// caller is who sends something, and what to: a backend, and a request to it or, without one, opaque bytes.
type caller struct {
	peer    identity.PeerID
	source  upstream.Source
	backend string
	request *phttp.Request
	// since is when it began. Tokens have to be valid then: a stream does not end with the token that has begun it.
	since time.Time
	// overHop tells that another proxy has sent it.
	overHop bool
}

// judge decides about a call. Only those to backends of this namespace are decided about, and all of them are here:
// whoever picks the pod decides.
func (e *Engine) judge(cfg *config, c caller) authz.Decision {
	if cfg.policies.Empty() || e.sidecar() && !c.overHop {
		// What the pod of a sidecar sends is decided about where it arrives.
		return authz.Decision{Rule: authz.NoRule, HTTP: c.request}
	}
	namespace, service, port, ok := wire.ParseServicePortKey(c.backend)
	if !ok || namespace != e.options.Namespace {
		// A copy for a consumer is a Service of another namespace.
		return authz.Decision{Rule: authz.NoRule, HTTP: c.request}
	}
	return cfg.policies.Decide(&authz.Request{
		TrustDomain: c.peer.TrustDomain, Namespace: c.peer.Namespace, ServiceAccount: c.peer.ServiceAccount,
		Client: c.source.Address.Addr(), Service: service, Port: port, HTTP: c.request, Now: c.since,
	})
}

// decide is judge for what begins: it is counted, and logged unless it is allowed.
func (e *Engine) decide(cfg *config, c caller) authz.Decision {
	decision := e.judge(cfg, c)
	if decision.Verdict != authz.Unconcerned {
		e.record(cfg, c, decision)
	}
	return decision
}

func (e *Engine) record(cfg *config, c caller, decision authz.Decision) {
	destination := c.backend
	if e.inbound(cfg, c.backend) == nil {
		destination = unknownDestination
	}
	e.metrics.Decided(telemetry.Decision{Destination: destination, Verdict: decision.Verdict.String(), Policy: decision.Policy, Rule: decision.Rule})
	if decision.Verdict == authz.Allowed {
		return
	}
	fields := []any{"verdict", decision.Verdict.String(), "policy", decision.Policy, "rule", decision.Rule,
		"source", c.peer.String(), "client", c.source.Address.String(), "backend", c.backend}
	if decision.Why != nil {
		fields = append(fields, "token", decision.Why.Error())
	}
	level, unseen := e.denials.level(decision.Policy+" "+decision.Verdict.String(), time.Now())
	if unseen > 0 {
		fields = append(fields, "unseen", unseen)
	}
	e.options.Log.Log(context.Background(), level, "A MeshAuthorization does not allow this", fields...)
}

// forbids tells whether the exchange's client may not send a request to a backend. If it may, the request is changed
// into what the application is to get.
func (x *exchange) forbids(backend string, request *phttp.Request) (authz.Decision, bool) {
	decision := x.engine.decide(x.config, caller{x.config.peer(x.r), x.source, backend, request, x.start, x.overHop})
	if decision.HTTP != request {
		*request = *decision.HTTP
	}
	return decision, decision.Verdict == authz.Denied
}

// forbidden answers a request that its client may not send to a backend.
func (x *exchange) forbidden(backend string, request *phttp.Request) bool {
	decision, denied := x.forbids(backend, request)
	x.judged = decision
	x.explain(decision)
	if !denied {
		return false
	}
	switch decision.Token {
	case authz.TokenInvalid: // RFC 6750 section 3.1
		x.answer(reason.InvalidToken, phttp.Field{Name: "WWW-Authenticate", Value: `Bearer error="invalid_token"`})
	case authz.TokenMissing:
		x.answer(reason.TokenRequired, phttp.Field{Name: "WWW-Authenticate", Value: "Bearer"})
	default:
		x.answer(reason.AuthorizationDenied)
	}
	return true
}

// decisionHeader tells clients in the mesh that have asked with upstream.FieldDebug what has decided about a request.
const decisionHeader = "Weft-Authorization"

// asksForDecision tells whether a client wants to know what decides about its request. One that was forwarded from
// elsewhere does not: who is outside of the mesh does not learn about it.
func asksForDecision(fields phttp.Header) bool {
	return slices.Contains(fields.Values(upstream.FieldDebug), upstream.DebugDecisions) &&
		!slices.ContainsFunc([]string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "Via"}, fields.Has)
}

// explain keeps what has decided about the request for its answer, if the client has asked.
func (x *exchange) explain(decision authz.Decision) {
	if !x.curious || decision.Verdict == authz.Unconcerned {
		return
	}
	x.decided = decision.Verdict.String()
	if decision.Policy != "" {
		x.decided += "; policy=" + decision.Policy
	}
	if decision.Rule != authz.NoRule {
		x.decided += "; rule=" + strconv.Itoa(decision.Rule)
	}
}
