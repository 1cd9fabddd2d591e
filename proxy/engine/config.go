package engine

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/ratelimit"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// config is everything that a request needs to know. It is immutable; a request loads it once.
type config struct {
	// destinations are those in force, departed those that were until lately; numbers lead to both.
	destinations index[string, *destination]
	departed     index[string, *destination]
	numbers      index[uint16, string]
	// strays are the metrics of what comes over the hop for backends that are not known.
	strays *ruleSeries
	// addresses lead to destinations by their cluster IPs, and pod is the pod, where the proxy is beside one.
	addresses index[netip.AddrPort, string]
	pod       *ownPod
	// limits are the rate limits of routes, and of backends whose endpoints are picked here.
	limits index[wire.Ref, *ratelimit.Limiter]
	// sessions hold the names of endpoints for as long as the configuration is in force.
	sessions sessionNames
	// reached is what is kept of each backend for as long as it is configured.
	reached index[string, *reached]
	view    *upstream.View
	// direct reaches the cluster IPs of backends that have departed.
	direct *upstream.View
	mesh   wire.Mesh
	// policies say who may call the Services of this namespace.
	policies authz.Policies
	// replaced is closed when another configuration is in force.
	replaced chan struct{}
}

// destination is one Service port as clients address it, with the routes that apply there. It is immutable, except that
// its table is compiled when it is needed: few of many destinations are.
type destination struct {
	*wire.Destination
	key string
	// routes are those that compete for its requests. Without any the backend of the same key serves everything.
	routes []*wire.Route
	// policy is what applies without a route, measures what it asks for.
	policy   *wire.Policy
	measures measures
	// plain counts what is not subject to any rule.
	plain *ruleSeries
	// compiled is what the routes come to, nil until somebody has asked.
	compiled *compiled
	// departed tells that the destination is no longer configured. Connections that were accepted
	// before, or by an agent that does not know yet, are served on, but each answer ends its connection.
	departed bool
}

// compiled is what the routes of a destination come to.
type compiled struct {
	once  sync.Once
	done  atomic.Bool
	table *phttp.Table
	// rules are by what they were compiled from.
	rules map[*wire.Route]*rule
}

// rule is what a destination has beside the rule of a route.
type rule struct {
	series   ruleSeries
	policy   *wire.Policy
	measures measures
}

// ruleSeries are the metrics of one rule, or of a Service port that no rule applies to. They come into being with their
// first use.
type ruleSeries struct {
	metrics               *telemetry.Metrics
	listener, destination string
	// route is nil if there is no rule.
	route *wire.Route
	made  atomic.Pointer[usedSeries]
}

type usedSeries struct {
	// labels are those without a backend.
	labels telemetry.Labels
	// series begin with the one without a backend; the others are in the order of the rule's backends.
	series []*telemetry.Series
}

// used returns what there is from the first use on.
func (s *ruleSeries) used() *usedSeries {
	if made := s.made.Load(); made != nil {
		return made
	}
	all := s.labels()
	made := &usedSeries{labels: all[0]}
	for i := range all {
		made.series = append(made.series, s.metrics.Series(all[i]))
	}
	s.made.Store(made)
	return made
}

// at returns the series of a backend by its index, those without a backend for phttp.NoBackend.
func (s *ruleSeries) at(backend int) *telemetry.Series {
	return s.used().series[backend-phttp.NoBackend]
}

// unanswered counts requests that no backend was chosen for.
func (s *ruleSeries) unanswered() *telemetry.Series { return s.at(phttp.NoBackend) }

func (s *ruleSeries) labels() []telemetry.Labels {
	if s.route == nil {
		return plainLabels(s.listener, s.destination)
	}
	return ruleLabels(s.destination, s.route)
}

// plainLabels returns the labels of a Service port that no rule applies to: first those without a
// backend, then those with the one of the same key.
func plainLabels(listener, key string) []telemetry.Labels {
	return []telemetry.Labels{
		{Listener: listener, Destination: key},
		{Listener: listener, Destination: key, Backend: key},
	}
}

// ruleLabels returns the labels of a rule: first those without a backend, then one per backend.
func ruleLabels(destination string, route *wire.Route) []telemetry.Labels {
	base := telemetry.Labels{
		Listener:    listenerCaptured,
		Destination: destination,
		Route:       string(route.Kind) + "/" + route.Namespace + "/" + route.Name,
		Rule:        route.RuleName,
	}
	if base.Rule == "" {
		base.Rule = strconv.Itoa(route.Rule)
	}
	labels := append(make([]telemetry.Labels, 0, len(route.Backends)+1), base)
	for i := range route.Backends {
		one := base
		one.Backend = route.Backends[i].Backend
		labels = append(labels, one)
	}
	return labels
}

// manyRules is from how many routes on a destination does not wait for a request to be compiled: it would take long.
const manyRules = 16

// newDestination returns a destination with the routes attached to it. before is the same one as it was, or nil: what
// is the same of it is not made again, and if it was needed it is compiled at once.
func newDestination(key string, before *destination, d *wire.Destination, attached []*wire.Route, limits *index[wire.Ref, *ratelimit.Limiter], metrics *telemetry.Metrics) *destination {
	next := &destination{Destination: d, key: key, policy: effective(d.Policy), routes: slices.Clone(phttp.Attached(d.Protocol, attached))}
	next.measures = newMeasures(next.policy, nil)
	if before != nil {
		next.plain = before.plain
	} else {
		next.plain = &ruleSeries{metrics: metrics, listener: listenerCaptured, destination: key}
	}
	if len(next.routes) == 0 {
		return next
	}
	next.compiled = new(compiled)
	if used := before != nil && before.compiled != nil && before.compiled.done.Load(); used || len(next.routes) >= manyRules {
		next.compile(before, limits)
	}
	return next
}

// compile compiles the routes, unless that has been done. limits are those of the configuration that d is in.
func (d *destination) compile(before *destination, limits *index[wire.Ref, *ratelimit.Limiter]) *compiled {
	if !d.compiled.done.Load() {
		d.compileNow(before, limits)
	}
	return d.compiled
}

func (d *destination) compileNow(before *destination, limits *index[wire.Ref, *ratelimit.Limiter]) {
	d.compiled.once.Do(func() {
		table, known := new(phttp.Table), map[*wire.Route]*rule(nil)
		if before != nil && before.compiled != nil && before.compiled.done.Load() {
			table = before.compiled.table
			if before.Destination == d.Destination {
				known = before.compiled.rules
			}
		}
		// Every route has passed phttp.Check, so none is left out.
		d.compiled.table, _ = table.Next(d.routes)
		d.compiled.rules = make(map[*wire.Route]*rule, len(d.routes))
		for _, route := range d.routes {
			limiter := limits.get(routeRef(route))
			r := known[route]
			if r == nil || r.measures.limits != limiter {
				policy := effective(d.Policy, route.Policy)
				r = &rule{
					series: ruleSeries{metrics: d.plain.metrics, listener: listenerCaptured, destination: d.key, route: route},
					policy: policy, measures: newMeasures(policy, limiter),
				}
			}
			d.compiled.rules[route] = r
		}
		d.compiled.done.Store(true)
	})
}

// withDeparted returns a copy of d as it is when it is no longer configured.
func (d *destination) withDeparted() *destination {
	departed := *d
	departed.departed = true
	return &departed
}

// destination returns the destination of that key, nil if it is not and was not lately configured.
func (c *config) destination(key string) *destination {
	if d := c.destinations.get(key); d != nil {
		return d
	}
	return c.departed.get(key)
}

// find returns the destination that a connection is for, nil if there is none.
func (c *config) find(t Target) *destination {
	key := t.Key
	switch {
	case key != "":
	case t.Address.IsValid():
		key = c.addresses.get(t.Address)
	default:
		key = c.numbers.get(t.Number)
	}
	return c.destination(key)
}

// awaitDestination returns the destination that a connection is for as soon as it is configured, or nil
// at the end of ctx: an agent may send the first connection before the configuration has arrived here.
func (e *Engine) awaitDestination(ctx context.Context, t Target) *destination {
	for {
		c := e.config.Load()
		if d := c.find(t); d != nil {
			return d
		}
		select {
		case <-c.replaced:
		case <-ctx.Done():
			return nil
		}
	}
}
