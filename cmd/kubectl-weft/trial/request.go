package trial

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// Try tells what becomes of a request that a caller sends to a Service port, as wire.ServicePortKey writes it.
// The request is not changed. It passes what it would pass in a proxy in the same order: routes, the filters of
// the rule, those of each backend that may be chosen, and the authorizations of the backend's namespace.
func (m *Mesh) Try(c Caller, servicePort string, in *phttp.Request) Outcome {
	key, d := m.Destination(c.Namespace, servicePort)
	if d == nil || !slices.Contains(m.enrolled, c.Namespace) {
		return Outcome{Why: "nothing that namespace " + c.Namespace + " sends to " + servicePort + " is captured"}
	}
	o := Outcome{Captured: true, Destination: key, Protocol: d.Protocol}
	if d.Protocol == wire.ProtocolTCP {
		o.Backends = []Backend{m.backend(c, key, 100, nil, nil)}
		return o
	}
	req := in.Clone()
	phttp.StripHopByHop(&req.Header, false)
	phttp.StripInternal(&req.Header)
	routes := m.Routes(c.Namespace, key, d)
	for _, r := range routes {
		o.Candidates += len(r.Matches)
	}
	if len(routes) == 0 {
		o.Policy = policyTexts(d.Policy)
		o.Backends = []Backend{m.backend(c, key, 100, &req, nil)}
		return o
	}
	table, _ := phttp.NewTable(routes)
	rule, matched := table.Match(&req)
	if rule == nil {
		o.Answer = answerOf(reason.NoRule, &req)
		return o
	}
	route := rule.Route()
	o.Policy = policyTexts(wire.Overlay(d.Policy, route.Policy))
	o.Rule = &Rule{
		Kind: route.Kind, Namespace: route.Namespace, Route: route.Name, Index: route.Rule, Name: route.RuleName,
		Match: matched.Match, Matched: MatchText(&route.Matches[matched.Match]), Consumer: route.Consumer,
	}
	m.run(c, d, rule, matched, &req, &o)
	return o
}

// run passes a request through the filters of its rule and to each of its backends.
func (m *Mesh) run(c Caller, d *wire.Destination, rule *phttp.Rule, matched phttp.Matched, req *phttp.Request, o *Outcome) {
	route := rule.Route()
	o.copies(route.Filters)
	filtered := req.Clone()
	x := &phttp.Exchange{Rule: rule, Matched: matched, Port: d.Port}
	if answer := x.Request(&filtered); answer != nil {
		o.Answer = filterAnswer(answer)
		return
	}
	total := int64(0)
	for i := range route.Backends {
		total += int64(route.Backends[i].Weight)
	}
	if total == 0 {
		o.Answer = answerOf(reason.NoBackend, req)
		return
	}
	for i := range route.Backends {
		weighted := &route.Backends[i]
		if weighted.Weight == 0 {
			continue
		}
		// Each backend is another way that the same request may take.
		one := req.Clone()
		x := &phttp.Exchange{Rule: rule, Matched: matched, Port: d.Port}
		x.Request(&one)
		var chosen phttp.Request
		answer := x.BackendRequest(i, &one, &chosen)
		o.copies(weighted.Filters)
		o.Backends = append(o.Backends, m.backend(c, weighted.Backend, percent(int64(weighted.Weight), total), &chosen, answer))
	}
}

func percent(part, total int64) float64 { return float64(part) * 100 / float64(total) }

// copies notes the mirrors among filters. Those behind a redirection are never reached.
func (o *Outcome) copies(filters []wire.Filter) {
	for i := range filters {
		if filters[i].Redirect != nil {
			return
		}
		if f := filters[i].Mirror; f != nil && f.Backend != "" {
			o.Mirrors = append(o.Mirrors, Mirror{Backend: f.Backend, Percent: percent(int64(f.Numerator), int64(f.Denominator))})
		}
	}
}

func filterAnswer(res *phttp.Response) *Answer {
	why := reason.Preflight
	if res.Status >= 300 && res.Status < 400 {
		why = reason.Redirect
	}
	return &Answer{Status: res.Status, Reason: why, Header: fields(res.Header)}
}

// backend tells what becomes of a request at one of the places where it may go. request is nil for opaque bytes,
// answer what a filter of the backend answers.
func (m *Mesh) backend(c Caller, key string, share float64, request *phttp.Request, answer *phttp.Response) Backend {
	b := Backend{Key: key, Percent: share, Endpoints: -1}
	if request != nil {
		b.Request = Describe(request)
	}
	if key == "" {
		b.Answer = answerOf(reason.InvalidBackend, request)
		return b
	}
	if n, known := m.endpoints[key]; known {
		b.Endpoints = n
	}
	backend := m.Backend(c.Namespace, key)
	switch {
	case backend == nil:
		b.Answer = answerOf(reason.UnknownBackend, request)
		return b
	case !backend.Meshed:
		b.Path = PathDirect
	case backend.Namespace == c.Namespace:
		b.Path = PathLocal
	default:
		b.Path = PathHop
	}
	b.Verdict = m.May(c, key, request)
	switch {
	case !b.Verdict.Allowed:
		b.Answer = answerOf(reason.AuthorizationDenied, request)
	case answer != nil:
		b.Answer = filterAnswer(answer)
	case b.Endpoints == 0:
		b.Answer = answerOf(reason.NoEndpoints, request)
	}
	return b
}

// Verdict is what the authorizations of a namespace say.
type Verdict struct {
	Allowed bool `json:"allowed"`
	// Decision is unconcerned, allowed, would_deny or denied.
	Decision string `json:"decision"`
	// Policy is the one that has decided, empty if none has; Rule is its rule, -1 if none matches.
	Policy string `json:"policy,omitempty"`
	Rule   int    `json:"rule"`
	// Trace says for each policy that is concerned what it alone would decide.
	Trace []Judged `json:"trace,omitempty"`
}

// Judged is what one policy says.
type Judged struct {
	Policy   string `json:"policy"`
	Action   string `json:"action"`
	Audit    bool   `json:"audit,omitempty"`
	Rule     int    `json:"rule"`
	Decision string `json:"decision"`
}

// May tells whether a caller may send a request, or opaque bytes if it is nil, to a backend. The namespace of the
// backend decides, by the request as the application would get it.
func (m *Mesh) May(c Caller, backend string, request *phttp.Request) Verdict {
	namespace, service, port, ok := wire.ParseServicePortKey(backend)
	if !ok {
		return Verdict{Allowed: true, Decision: authz.Unconcerned.String(), Rule: authz.NoRule}
	}
	in := &authz.Request{
		TrustDomain: m.trustDomain, Namespace: c.Namespace, ServiceAccount: c.ServiceAccount, Client: c.Address,
		Service: service, Port: port, HTTP: request,
	}
	decided := m.policies[namespace].Decide(in)
	v := Verdict{
		Allowed: decided.Verdict != authz.Denied, Decision: decided.Verdict.String(), Policy: decided.Policy, Rule: decided.Rule,
	}
	for _, a := range m.authorizations[namespace] {
		p := compiledPolicy(a)
		if p == nil {
			continue
		}
		if alone := authz.NewPolicies([]*authz.Policy{p}).Decide(in); alone.Verdict != authz.Unconcerned {
			v.Trace = append(v.Trace, Judged{a.Key(), string(a.Action), a.Audit, alone.Rule, alone.Verdict.String()})
		}
	}
	return v
}

// policyTexts writes what a policy sets.
func policyTexts(p *wire.Policy) []string {
	var out []string
	for _, f := range p.Fields() {
		out = append(out, f.Path+"="+valueText(f.Value))
	}
	return out
}

func valueText(v any) string {
	if d, ok := v.(wire.Duration); ok {
		return time.Duration(d).String()
	}
	// What has parts is written with what they hold: as Go writes it, two that are the same would differ by where they are.
	switch reflect.TypeOf(v).Kind() {
	case reflect.Pointer, reflect.Struct, reflect.Slice, reflect.Map:
		if data, err := json.Marshal(v); err == nil {
			return string(data)
		}
	}
	return fmt.Sprint(v)
}

// PercentText writes a share without needless digits.
func PercentText(p float64) string {
	return strconv.FormatFloat(math.Round(p*100)/100, 'f', -1, 64) + " %"
}

// everything is the text of a match that asks for nothing.
const everything = "everything"

// MatchText writes what a match asks for.
func MatchText(m *wire.Match) string {
	var parts []string
	if m.Method != "" {
		parts = append(parts, "method "+m.Method)
	}
	if m.Path != nil && (m.Path.Type != wire.MatchPrefix || m.Path.Value != "/") {
		parts = append(parts, "path "+how(m.Path.Type)+m.Path.Value)
	}
	if m.GRPC != nil {
		parts = append(parts, "gRPC "+how(m.GRPC.Type)+orAny(m.GRPC.Service)+"/"+orAny(m.GRPC.Method))
	}
	for _, h := range m.Headers {
		parts = append(parts, "header "+h.Name+" "+valueOf(h))
	}
	for _, q := range m.Query {
		parts = append(parts, "query "+q.Name+" "+valueOf(q))
	}
	if len(parts) == 0 {
		return everything
	}
	return strings.Join(parts, ", ")
}

// valueOf writes a value, an expression as it is.
func valueOf(m wire.NamedMatch) string {
	if m.Type == wire.MatchRegex {
		return "like " + m.Value
	}
	return strconv.Quote(m.Value)
}

func how(t wire.MatchType) string {
	switch t {
	case wire.MatchPrefix:
		return "below "
	case wire.MatchRegex:
		return "like "
	default:
		return ""
	}
}

func orAny(name string) string {
	if name == "" {
		return "*"
	}
	return name
}
