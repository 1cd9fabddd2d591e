package engine

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/authz"
	"weft.dev/weft/proxy/h1"
	"weft.dev/weft/proxy/h2"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/trace"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// exchange is one request on its way to a backend, and the answer on its way back.
type exchange struct {
	engine *Engine
	w      http.ResponseWriter
	// r has no Header if the client is served by one of our own servers; fields are there for everybody.
	r  *http.Request
	rc *http.ResponseController
	// fields are those of the request as they were received, but for Host. webSocket tells that they ask for the one upgrade
	// that is forwarded.
	fields    phttp.Header
	webSocket bool
	// own is w if the client is served by one of our own servers, nil if by net/http.
	own ownWriter
	// memory is where the exchange and its parts lie.
	memory *memory
	start  time.Time

	// config is what the request pinned, destination the key of the Service port that it is for.
	config      *config
	destination string

	// head is the request as the filters have made it, original what the client sent once asked needs it.
	head     phttp.Request
	original *phttp.Request
	grpc     bool
	// closing ends the client's connection with this answer.
	closing bool

	// filters is nil where no rule applies.
	filters *phttp.Exchange
	series  *ruleSeries
	// backend is the index of the backend chosen in the rule, phttp.NoBackend before one is.
	backend int
	// key is the backend's, empty if it could not be resolved.
	key string
	// policy is in force for the request; every field is set as effective says.
	policy *wire.Policy

	// chooser is bound to the configuration that the request pinned.
	chooser chooser
	// source is the client, over the hop as far as the proxy before this one has told.
	source upstream.Source
	// session is where the client wants to stay.
	session stay
	// received is what the hop told about the tries of the proxy before this one, tried are the endpoints
	// that it is told in return. Only requests that came over the hop have them.
	received upstream.Metadata
	tried    []netip.AddrPort
	// reached tells that an application may have seen the request.
	reached bool
	// curious clients want to know what has decided about the request, decided is what they are told.
	curious bool
	decided string

	// traced is nil if the exchange is not, and until traceDecided.
	traced       *traced
	traceDecided bool
	// judged is what has decided that its client may call.
	judged authz.Decision
	// upstream is how long the last try has waited for an answer.
	upstream time.Duration

	// status is what was answered, zero if nobody was left to answer; why says why it was this proxy that
	// answered, or cut the answer.
	status int
	why    reason.Reason
	// code is the status of a gRPC call, as far as its answer has told; switched is when the protocol was, of a request
	// that asked for another one.
	code     string
	switched time.Time
	// messages are those of the answer to a gRPC call.
	messages messages
	// caller is who sends the request, for metrics; overHop tells that it has come from another proxy.
	caller  *telemetry.Caller
	overHop bool
	// sent counts the tries, and last is where the last of them went.
	sent int
	last upstream.Endpoint
}

// memory holds an exchange and what most need besides. It is used again if nothing of it can have outlived the exchange,
// see served.
type memory struct {
	exchange exchange
	// adapter or streamAdapter makes the request and the writer of the exchange, whose context is ctx, and control is of
	// the writer. Only those of our own servers have them.
	adapter       *h1.Adapter
	streamAdapter *h2.Adapter
	control       *http.ResponseController
	ctx           requestContext
	tries         tries
	filters       phttp.Exchange
	// header is that of the request as it came through the gate, chosen the request to the backend.
	header phttp.Header
	chosen phttp.Request
	// answer is the head of the answer of a direct exchange.
	answer phttp.Response
	// body is that of the request. direct, its call plain and alarm are of a direct exchange.
	body   replay
	direct upstream.Direct
	plain  plainCall
	alarm  alarm
	// served is the connection or stream, of our own servers alone; streamServed is that of a stream.
	served       *served
	streamServed served
	// tried is where the list of them lies.
	tried [1]netip.AddrPort
}

// clear lets go of what the memory refers to, but for lists that are used again.
func (m *memory) clear() {
	m.exchange, m.tries, m.filters, m.answer, m.served = exchange{}, tries{}, phttp.Exchange{}, phttp.Response{}, nil
	m.ctx.Context, m.ctx.conn = nil, nil //nolint:fatcontext // it is another one for each request, in none of the last
	if m.adapter != nil {
		m.adapter.End()
	} else {
		m.streamAdapter.End()
	}
	m.direct.Reset()
	m.body.begin(nil)
	clear(m.header[:cap(m.header)])
	clear(m.chosen.Header[:cap(m.chosen.Header)])
	m.chosen = phttp.Request{Header: m.chosen.Header[:0]}
}

// chooser picks endpoints of backends.
type chooser struct {
	engine *Engine
	config *config
	// departed tells that the destination has; overHop, that the request came that way.
	departed, overHop bool
}

// serveCaptured serves the requests of clients.
func (e *Engine) serveCaptured(w http.ResponseWriter, r *http.Request) {
	m := new(memory)
	m.exchange = exchange{w: w, r: r, rc: http.NewResponseController(w), memory: m}
	e.capture(&m.exchange)
}

// capture serves a request of a client: x has it, and how it is answered.
func (e *Engine) capture(x *exchange) {
	r := x.r
	c, _ := r.Context().Value(connKey{}).(*conn)
	c.begun()
	cfg := e.config.Load()
	d := cfg.destination(c.target.key)
	if d == nil {
		// It departed so long ago that it has been forgotten, but this connection has not.
		d = c.target.withDeparted()
	}
	x.engine, x.config, x.start = e, cfg, time.Now()
	x.destination, x.series, x.policy = d.key, d.plain, d.policy
	x.read()
	e.metrics.Active(listenerCaptured, 1)
	x.caller = c.caller
	x.closing = d.departed || e.draining.Load() || c.old(x.start, cfg.mesh.MaxConnectionAge) || x.own == nil && ambiguous(c, r)
	defer x.finish()
	if e.own == nil {
		defer c.drain(r) // our own servers wait for nobody
	}
	if c.refused != "" {
		x.closing = true
		x.answer(c.refused)
		return
	}
	x.source = c.upstreamSource(e.options.Zone)
	x.chooser = chooser{engine: e, config: cfg, departed: d.departed}
	x.serve(d)
}

// choose picks an endpoint of a backend and names the set that reaches it. Backends that have departed with their
// destination are reached by the cluster IPs of their Services, as if the mesh were not there. What came over the hop
// goes to endpoints of this namespace and nowhere else.
func (c chooser) choose(ctx context.Context, backend string, wish upstream.Wish) (upstream.Endpoint, *upstream.Set, error) {
	if c.overHop {
		endpoint, err := c.config.view.ChooseLocal(ctx, backend, wish)
		if errors.Is(err, upstream.ErrUnknownBackend) {
			// It may have departed while the sender has yet to learn of it.
			if endpoint, err := c.config.direct.ChooseLocal(ctx, backend, wish); err == nil {
				return endpoint, c.engine.direct, nil
			}
		}
		return endpoint, c.engine.upstream, err
	}
	if c.departed {
		if _, known := c.config.view.Backend(backend); !known {
			endpoint, err := c.config.direct.Choose(ctx, backend, wish)
			return endpoint, c.engine.direct, err
		}
	}
	endpoint, err := c.config.view.Choose(ctx, backend, wish)
	return endpoint, c.engine.upstream, err
}

// serve passes the request through the gate, the routes and filters of its destination, to a backend.
func (x *exchange) serve(d *destination) {
	x.curious = asksForDecision(x.fields)
	head, why, err := x.gate(x.memory.header)
	if why != "" {
		x.engine.options.Log.Debug("Refused a request", "reason", string(why), "error", err)
		// What follows on the connection may not be what it seems.
		x.closing = true
		x.answer(why)
		return
	}
	// If the upgrade is refused, what the client has sent for the other protocol must not be taken for a
	// request.
	x.closing = x.closing || x.webSocket
	x.head, x.memory.header = head, head.Header
	if x.head.Authority == "" {
		// Only HTTP/1.0 may leave it out, and what is forwarded is HTTP/1.1.
		x.head.Authority = d.Service + "." + d.Namespace
	}
	if len(d.routes) == 0 {
		x.backend, x.key = 0, d.key
		if !x.forbidden(x.key, &x.head) && !x.measured(d.measures) {
			x.forward()
		}
		return
	}
	c := d.compile(nil, &x.config.limits)
	rule, matched := c.table.Match(&x.head)
	if rule == nil {
		x.answer(reason.NoRule)
		return
	}
	x.applyRule(d, rule, c.rules[rule.Route()], matched)
}

// applyRule runs the filters of the rule that matched, chooses a backend and forwards.
func (x *exchange) applyRule(d *destination, rule *phttp.Rule, own *rule, matched phttp.Matched) {
	x.series, x.policy = &own.series, own.policy
	x.filters = &x.memory.filters
	*x.filters = phttp.Exchange{
		Rule: rule, Matched: matched, Port: d.Port, Random: x.engine.options.Random(),
	}
	if res := x.filters.Request(&x.head); res != nil {
		x.writeAnswer(answerReason(res), *res, "")
		return
	}
	x.session = x.stayOfRoute(rule.Route())
	i, ok := x.pick(rule)
	if !ok {
		if !x.measured(own.measures) {
			x.answer(reason.NoBackend)
		}
		return
	}
	// Filters of the backend come after the measures, and who may call before them: it is decided by what the
	// backend will see, and who may not call takes nothing from the limits of others.
	chosen := &x.memory.chosen
	answered := x.filters.BackendRequest(i, &x.head, chosen)
	if answered == nil && x.forbidden(rule.Backend(i), chosen) || x.measured(own.measures) {
		return
	}
	x.backend, x.key = i, rule.Backend(i)
	if answered != nil {
		x.writeAnswer(answerReason(answered), *answered, "")
		return
	}
	x.head = *chosen
	x.forward()
}

// answerReason names what kind of answer a filter has made.
func answerReason(res *phttp.Response) reason.Reason {
	if res.Status >= 300 && res.Status < 400 {
		return reason.Redirect
	}
	return reason.Preflight
}

// read takes in the fields of the request.
func (x *exchange) read() {
	if x.own != nil {
		x.fields = x.own.Fields()
	} else {
		x.fields = listed(x.r.Header)
	}
	x.backend, x.webSocket = phttp.NoBackend, isWebSocket(x.r, x.fields)
	head := phttp.Request{Header: x.fields}
	x.grpc = head.IsGRPC()
}

// hopped tells whether the request has come over the hop.
func (x *exchange) hopped() bool { return x.received.Backend != "" }

// writeHead writes the head of the answer.
func (x *exchange) writeHead(res *phttp.Response) {
	x.status = res.Status
	if x.decided != "" {
		res.Header.Set(decisionHeader, x.decided)
	}
	// Where a success came from is of no use to the proxy that waits for it; of a gRPC call it is not known
	// yet whether it is one.
	if x.hopped() && (res.Status >= http.StatusBadRequest || x.grpc) {
		o := upstream.Outcome{Tried: x.tried}
		if why := res.Header.Get(reason.Header); why != "" && !x.reached {
			o.NotProcessed = why
		}
		upstream.SetOutcome(&res.Header, o)
	}
	if x.own != nil {
		if x.closing {
			res.Header.Add("Connection", "close")
		}
		x.own.WriteFields(res)
		return
	}
	header := x.w.Header()
	for _, f := range res.Header {
		header.Add(f.Name, f.Value)
	}
	if _, ok := header["Content-Type"]; !ok {
		// net/http would guess one.
		header["Content-Type"] = nil
	}
	if x.closing {
		// In HTTP/2, net/http turns it into a GOAWAY.
		header.Set("Connection", "close")
	}
	x.w.WriteHeader(res.Status)
}

// finish measures the request at its end, and remembers it.
func (x *exchange) finish() {
	took := time.Since(x.start)
	x.measure(took)
	x.observe(took)
	if x.engine.options.Exchanges != nil {
		x.engine.options.Exchanges.Add(x.record(took))
	}
}

// measure counts the request in metrics.
func (x *exchange) measure(took time.Duration) {
	listener := listenerCaptured
	if x.overHop {
		listener = listenerHop
	}
	o := telemetry.Outcome{
		Caller: x.caller, Secure: x.overHop, GRPC: x.grpc, RPC: x.code, Status: x.status, Error: string(x.why), Took: took,
	}
	if !x.switched.IsZero() {
		o.Took = x.switched.Sub(x.start)
	}
	if o.Status == 0 && o.Error == "" {
		o.Error = telemetry.ErrorClientGone
	}
	if o.GRPC && o.RPC == "" {
		o.RPC = phttp.GRPCCancelled.String()
	}
	if traced := x.traces(); traced != nil {
		o.Trace = traced.own.Trace
	} else if traceparent, ok := x.fields.Single("Traceparent"); ok {
		o.Trace = trace.SampledParent(traceparent)
	}
	x.series.at(x.backend).Request(&o)
	x.engine.metrics.Active(listener, -1)
}

// target is the request's path and query as the client has sent them.
func (x *exchange) target() string {
	target, err := originForm(x.r)
	if err != nil {
		return x.r.RequestURI // it was refused for this
	}
	return target
}

// record is what is remembered of the request.
func (x *exchange) record(took time.Duration) admin.Exchange {
	path, _, _ := strings.Cut(x.target(), "?")
	e := admin.Exchange{
		ID: admin.IDOf(x.fields.Get), Time: x.start, Duration: took, Listener: listenerCaptured,
		Method: x.r.Method, Authority: x.r.Host, Path: path,
		Client: x.source.Address, Destination: x.destination, Route: x.series.used().labels.Route, Rule: x.series.used().labels.Rule,
		Backend: x.key, Tries: x.sent, Status: x.status, Reason: string(x.why),
	}
	if x.hopped() {
		e.Listener = listenerHop
	}
	e.Source = x.config.sender(x.r)
	if x.sent > 0 {
		e.Endpoint = x.last.Address()
	}
	if e.ID == "" && x.traced != nil {
		e.ID = x.traced.own.Trace.String()
	}
	if x.engine.options.Exchanges.Listening() {
		e.Header = admin.Redact(nethttp.Header(x.fields))
	}
	return e
}
