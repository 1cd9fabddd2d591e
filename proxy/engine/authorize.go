package engine

import (
	"fmt"

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

// forbids decides whether somebody may send a request, or opaque bytes if it is nil, to a backend. Only those of
// this namespace are decided about, and all of them are here: whoever picks the pod decides. Every decision is
// counted, and logged unless it allows.
func (e *Engine) forbids(cfg *config, peer identity.PeerID, source upstream.Source, backend string, request *phttp.Request) bool {
	namespace, service, port, ok := wire.ParseServicePortKey(backend)
	if !ok || namespace != e.options.Namespace {
		return false // a copy for a consumer is a Service of another namespace
	}
	decision := cfg.policies.Decide(&authz.Request{
		TrustDomain: peer.TrustDomain, Namespace: peer.Namespace, ServiceAccount: peer.ServiceAccount,
		Client: source.Address.Addr(), Service: service, Port: port, HTTP: request,
	})
	if decision.Verdict == authz.Unconcerned {
		return false
	}
	destination := backend
	if !cfg.inbound.has(backend) {
		destination = unknownDestination
	}
	e.metrics.Decided(telemetry.Decision{Destination: destination, Verdict: decision.Verdict.String(), Policy: decision.Policy})
	if decision.Verdict == authz.Allowed {
		return false
	}
	e.options.Log.Debug("A MeshAuthorization does not allow this", "verdict", decision.Verdict.String(), "policy", decision.Policy,
		"rule", decision.Rule, "source", peer.String(), "client", source.Address.String(), "backend", backend)
	return decision.Verdict == authz.Denied
}

// forbids tells whether the exchange's client may not send a request to a backend.
func (x *exchange) forbids(backend string, request *phttp.Request) bool {
	return x.engine.forbids(x.config, x.config.peer(x.r), x.source, backend, request)
}

// forbidden answers a request that its client may not send to a backend.
func (x *exchange) forbidden(backend string, request *phttp.Request) bool {
	if !x.forbids(backend, request) {
		return false
	}
	x.answer(reason.AuthorizationDenied)
	return true
}
