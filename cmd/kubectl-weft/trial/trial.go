// Package trial tries requests on what proxies would have, without sending any: which rule takes a request, what
// its filters make of it, where it goes, and who decides whether it may. It is pure, and asks the same code as the
// proxies do; it must not decide anything itself.
package trial

import (
	"net/netip"
	"slices"
	"strings"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// Mesh is the configuration of all proxies.
type Mesh struct {
	trustDomain    string
	resources      []wire.Resource
	enrolled       []string
	authorizations map[string][]*wire.Authorization
	policies       map[string]authz.Policies
	endpoints      map[string]int
}

// New returns the configuration that resources are, of the proxies of the enrolled namespaces. Neither may change
// any more.
func New(resources []wire.Resource, enrolled []string) *Mesh {
	m := &Mesh{
		resources: resources, enrolled: enrolled, authorizations: map[string][]*wire.Authorization{},
		policies: map[string]authz.Policies{}, endpoints: map[string]int{},
	}
	for i := range resources {
		switch r := &resources[i]; {
		case r.Mesh != nil:
			m.trustDomain = r.Mesh.TrustDomain
		case r.Authorization != nil:
			m.authorizations[r.Authorization.Namespace] = append(m.authorizations[r.Authorization.Namespace], r.Authorization)
		case r.Endpoints != nil:
			m.endpoints[r.Key] = pods(r.Endpoints.Endpoints)
		}
	}
	for namespace, all := range m.authorizations {
		compiled := make([]*authz.Policy, len(all))
		for i, a := range all {
			compiled[i] = compiledPolicy(a)
		}
		m.policies[namespace] = authz.NewPolicies(slices.DeleteFunc(compiled, func(p *authz.Policy) bool { return p == nil }))
	}
	return m
}

// pods counts the pods behind endpoints. One of both address families has an endpoint of each.
func pods(endpoints []wire.Endpoint) int {
	v6 := 0
	for i := range endpoints {
		if endpoints[i].Address.Addr().Is6() {
			v6++
		}
	}
	return max(v6, len(endpoints)-v6)
}

// compiledPolicy is a policy as a proxy has it that had none before; nil if that is none.
func compiledPolicy(a *wire.Authorization) *authz.Policy {
	p, err := authz.Compile(a)
	if err != nil {
		return authz.Closed(a.Key(), a)
	}
	return p
}

// Caller is who sends a request.
type Caller struct {
	Namespace      string     `json:"namespace"`
	ServiceAccount string     `json:"serviceAccount"`
	Pod            string     `json:"pod,omitempty"`
	Address        netip.Addr `json:"address,omitzero"`
}

// String names the identity of the caller.
func (c Caller) String() string {
	text := "ServiceAccount " + c.Namespace + "/" + c.ServiceAccount
	if c.Pod != "" {
		text = "Pod " + c.Namespace + "/" + c.Pod + " (" + text + ")"
	}
	return text
}

// sees tells whether the proxies of a namespace have a resource.
func sees(namespace string, r *wire.Resource) bool {
	return r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNamespace(namespace)
}

// Destination returns the destination of a Service port as the proxies of a namespace have it, nil if it is not
// captured there.
func (m *Mesh) Destination(namespace, servicePort string) (string, *wire.Destination) {
	for _, key := range []string{servicePort, servicePort + "@" + namespace} {
		for i := range m.resources {
			if r := &m.resources[i]; r.Destination != nil && r.Key == key && sees(namespace, r) {
				return key, r.Destination
			}
		}
	}
	return "", nil
}

// Routes returns the routes that requests of a namespace to a destination compete for, in no order.
func (m *Mesh) Routes(namespace, key string, d *wire.Destination) []*wire.Route {
	var attached []*wire.Route
	for i := range m.resources {
		if r := &m.resources[i]; r.Route != nil && sees(namespace, r) && slices.Contains(r.Route.Destinations, key) {
			attached = append(attached, r.Route)
		}
	}
	return phttp.Attached(d.Protocol, attached)
}

// Backend returns a backend as the proxies of a namespace have it, or nil.
func (m *Mesh) Backend(namespace, key string) *wire.Backend {
	for i := range m.resources {
		if r := &m.resources[i]; r.Backend != nil && r.Key == key && sees(namespace, r) {
			return r.Backend
		}
	}
	return nil
}

// Policy returns what the proxies of a namespace apply to the requests of a rule, or of none if route is nil.
func Policy(d *wire.Destination, route *wire.Route) *wire.Policy {
	p := wire.Overlay(wire.DefaultPolicy(), d.Policy)
	if route != nil {
		p = wire.Overlay(p, route.Policy)
	}
	return p
}

// Outcome is what becomes of a request.
type Outcome struct {
	// Captured tells that the request passes a proxy. If not, nothing else is said, and Why tells why.
	Captured    bool          `json:"captured"`
	Why         string        `json:"why,omitempty"`
	Destination string        `json:"destination,omitempty"`
	Protocol    wire.Protocol `json:"protocol,omitempty"`
	// Rule is the one that takes the request; nil if none does or there is no route.
	Rule *Rule `json:"rule,omitempty"`
	// Candidates counts the rules that compete.
	Candidates int `json:"candidates"`
	// Answer is what a proxy answers itself, nil if it sends the request on.
	Answer   *Answer   `json:"answer,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
	Mirrors  []Mirror  `json:"mirrors,omitempty"`
	// Policy lists what is in force for the request beside the defaults, as "path=value".
	Policy []string `json:"policy,omitempty"`
}

// Rule names a rule and the match by which it takes a request.
type Rule struct {
	Kind      wire.RouteKind `json:"kind"`
	Namespace string         `json:"namespace"`
	Route     string         `json:"route"`
	Index     int            `json:"index"`
	Name      string         `json:"name,omitempty"`
	Match     int            `json:"match"`
	Matched   string         `json:"matched"`
	Consumer  bool           `json:"consumer,omitempty"`
}

// Answer is an answer that a proxy makes.
type Answer struct {
	Status int           `json:"status"`
	Reason reason.Reason `json:"reason"`
	// GRPC is the status for gRPC clients, empty for others.
	GRPC   string   `json:"grpc,omitempty"`
	Header []string `json:"header,omitempty"`
}

// Backend is one place where the request may go.
type Backend struct {
	// Key is the Service port, empty if the reference cannot be resolved.
	Key string `json:"key"`
	// Percent of the requests that it gets.
	Percent float64 `json:"percent"`
	// Request is what it gets.
	Request Request `json:"request"`
	// Path says how it gets there.
	Path Path `json:"path"`
	// Endpoints counts its pods, -1 if they are not known.
	Endpoints int     `json:"endpoints"`
	Verdict   Verdict `json:"verdict"`
	// Answer is what the proxy answers instead of sending the request.
	Answer *Answer `json:"answer,omitempty"`
}

// Path is the way to a backend.
type Path string

// The ways.
const (
	PathLocal  Path = "local"  // the same proxy picks the pod
	PathHop    Path = "hop"    // over mutual TLS to the proxies of the backend's namespace
	PathDirect Path = "direct" // to a Service outside the mesh, in plain text
)

// Mirror is a copy of the request.
type Mirror struct {
	Backend string  `json:"backend"`
	Percent float64 `json:"percent"`
}

// Request is a request as people write it.
type Request struct {
	Method    string   `json:"method"`
	Authority string   `json:"authority"`
	Target    string   `json:"target"`
	Header    []string `json:"header,omitempty"`
}

// Describe writes a request as people do.
func Describe(r *phttp.Request) Request {
	return Request{Method: r.Method, Authority: r.Authority, Target: r.Target(), Header: fields(r.Header)}
}

func fields(h phttp.Header) []string {
	var out []string
	for _, f := range h {
		out = append(out, strings.ToLower(f.Name)+": "+f.Value)
	}
	return out
}

// answerOf is the answer to a request, which is nil for opaque bytes.
func answerOf(why reason.Reason, request *phttp.Request) *Answer {
	e := reason.Of(why)
	answer := &Answer{Status: e.Status, Reason: why}
	if request != nil && request.IsGRPC() {
		answer.GRPC = e.GRPC().String()
	}
	return answer
}
