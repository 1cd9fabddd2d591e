package engine

import (
	"net/netip"
	"sync"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/session"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// Sessions belong to the proxy that has matched the route, whether the policy is the route's or the
// Service's: it alone reads what the client sends and writes what the client is told. Over the hop it names
// the endpoint to the proxy that picks the pod, which answers with the name of the one it has picked. The
// request is passed on as it is, with the client's cookie or header; applications do not mind.

// stay is the session of a request.
type stay struct {
	// policy is nil if there is none, or if the proxy on the other side of the hop keeps it.
	policy *wire.SessionPersistence
	// route is the key of the rule whose session it is, empty for a Service's.
	route string
	// sent is what the client has; none if it is new.
	sent session.Token
}

// newStay reads the session of a request.
func (x *exchange) newStay(policy *wire.SessionPersistence, route string) stay {
	values := x.fields.Values(session.RequestField(policy))
	return stay{policy: policy, route: route, sent: session.Find(policy, route != "", values, time.Now())}
}

// stayOfRoute returns the session that a rule's own policy asks for. It goes before the Service's (GEP-1619).
func (x *exchange) stayOfRoute(route *wire.Route) stay {
	if route.Policy == nil || route.Policy.SessionPersistence == nil {
		return stay{}
	}
	return x.newStay(route.Policy.SessionPersistence, route.Key())
}

// pick chooses a backend of the rule: that of the client's session, though its weight may be zero by now
// (GEP-1619, Traffic Splitting), or one by weight.
func (x *exchange) pick(rule *phttp.Rule) (i int, ok bool) {
	if x.session.sent.Backend != "" {
		for i := range rule.Backends() {
			if key := rule.Backend(i); key != "" && session.Backend(x.session.route, key) == x.session.sent.Backend {
				return i, true
			}
		}
	}
	return rule.Pick(x.engine.options.Random())
}

// resume reads the session that the Service's policy asks for, if the route has none. The session of a
// Service is the same whatever route leads to it: a client that uses several would otherwise lose it with
// each change of path.
func (x *exchange) resume() {
	if x.session.policy != nil || x.received.Backend != "" {
		return
	}
	backend, ok := x.config.view.Backend(x.key)
	if ok && backend.Policy != nil && backend.Policy.SessionPersistence != nil {
		x.session = x.newStay(backend.Policy.SessionPersistence, "")
	}
}

// preferred returns the endpoint of the session, if this proxy picks it.
func (x *exchange) preferred() netip.AddrPort {
	name := x.received.Session
	if x.session.policy != nil {
		name = x.session.sent.Endpoint
	}
	return x.config.sessions.find(x.config.view, x.key, name)
}

// sessionCall returns what the proxy on the other side of the hop is to know of the session.
func (x *exchange) sessionCall() string {
	switch {
	case x.session.policy == nil:
		return ""
	case x.session.sent.Endpoint == "":
		return upstream.SessionNew
	}
	return x.session.sent.Endpoint
}

// keep tells the client, or the proxy that asked, which endpoint has answered.
func (t *tries) keep(to upstream.Endpoint, head *phttp.Response) {
	var endpoint string
	switch to.Kind() {
	case upstream.KindHop, upstream.KindSidecar:
		endpoint = head.Header.Get(upstream.FieldSession)
		head.Header.Del(upstream.FieldSession)
	case upstream.KindPod:
		if t.session.policy != nil || t.received.Session != "" {
			endpoint = t.config.sessions.name(t.config.view, t.key, to.Address())
		}
	case upstream.KindFallback:
		// A cluster IP may lead to another pod each time.
	}
	switch {
	case !session.ValidEndpoint(endpoint):
	case t.received.Session != "":
		head.Header.Set(upstream.FieldSession, endpoint)
	case t.session.policy != nil:
		s := &t.session
		var backend string
		if s.route != "" {
			backend = session.Backend(s.route, t.key)
		}
		_, field, tell := session.Next(s.policy, s.sent, backend, endpoint, time.Now())
		switch {
		case !tell:
		case s.policy.Type == wire.SessionHeader:
			head.Header.Set(field.Name, field.Value)
		default:
			head.Header.Add(field.Name, field.Value)
		}
	}
}

// sessionNames are the names of the endpoints of a configuration, made when a session needs them. The zero
// value is empty.
type sessionNames struct{ tables sync.Map }

// table returns the endpoints of a backend by name.
func (n *sessionNames) table(view *upstream.View, backend string) map[string]netip.AddrPort {
	if made, ok := n.tables.Load(backend); ok {
		table, _ := made.(map[string]netip.AddrPort)
		return table
	}
	table := map[string]netip.AddrPort{}
	for _, address := range view.Addresses(backend) {
		table[session.Endpoint(backend, address)] = address
	}
	if len(table) > 0 {
		n.tables.Store(backend, table)
	}
	return table
}

// find returns the endpoint of that name, not valid if there is none.
func (n *sessionNames) find(view *upstream.View, backend, name string) netip.AddrPort {
	if !session.ValidEndpoint(name) {
		return netip.AddrPort{}
	}
	return n.table(view, backend)[name]
}

// name returns the name of an endpoint, or "" if it is none of the backend's.
func (n *sessionNames) name(view *upstream.View, backend string, address netip.AddrPort) string {
	name := session.Endpoint(backend, address)
	if n.table(view, backend)[name] != address {
		return ""
	}
	return name
}
