package engine

import (
	"context"
	"strconv"

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
	// inbound holds the metrics of this namespace's backends for what comes over the hop, strays those
	// for backends that are not known.
	inbound index[string, *ruleSeries]
	strays  *ruleSeries
	// limits are the rate limits of routes, and of backends whose endpoints are picked here.
	limits index[wire.Ref, *ratelimit.Limiter]
	// sessions hold the names of endpoints for as long as the configuration is in force.
	sessions sessionNames
	// budgets are those of the backends; they outlive configurations as long as the backend is in them.
	budgets index[string, *budget]
	view    *upstream.View
	// direct reaches the cluster IPs of backends that have departed.
	direct *upstream.View
	mesh   wire.Mesh
	// policies say who may call the Services of this namespace.
	policies authz.Policies
	// replaced is closed when another configuration is in force.
	replaced chan struct{}
}

// destination is one Service port as clients address it, with the routes that apply there.
type destination struct {
	*wire.Destination
	key string
	// table is nil if no routes are attached: the backend of the same key then serves everything.
	table *phttp.Table
	// rules holds the metrics of every rule in table, by what the rule was compiled from.
	rules map[*wire.Route]*ruleSeries
	// policies hold what applies to every rule in table, policy what applies without one.
	policies map[*wire.Route]*wire.Policy
	policy   *wire.Policy
	// ruleMeasures are what the policies of rules ask for, measures what that without a rule does.
	ruleMeasures map[*wire.Route]*measures
	measures     *measures
	// plain counts what is not subject to any rule.
	plain *ruleSeries
	// departed tells that the destination is no longer configured. Connections that were accepted
	// before, or by an agent that does not know yet, are served on, but each answer ends its connection.
	departed bool
}

// ruleSeries are the metrics of one rule.
type ruleSeries struct {
	// labels are those without a backend.
	labels telemetry.Labels
	// unanswered counts requests that no backend was chosen for.
	unanswered *telemetry.Series
	// backends are in the order of the rule's backends.
	backends []*telemetry.Series
}

// at returns the series of a backend by its index, those without a backend for phttp.NoBackend.
func (s *ruleSeries) at(backend int) *telemetry.Series {
	if backend == phttp.NoBackend {
		return s.unanswered
	}
	return s.backends[backend]
}

// labels returns the labels of all series of d, those of the destination itself first.
func (d *destination) labels() []telemetry.Labels {
	labels := plainLabels(listenerCaptured, d.key)
	for route := range d.rules {
		labels = append(labels, ruleLabels(d.key, route)...)
	}
	return labels
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

// newSeries resolves the metrics of labels, of which the first has no backend.
func newSeries(metrics *telemetry.Metrics, labels []telemetry.Labels) *ruleSeries {
	s := &ruleSeries{labels: labels[0], unanswered: metrics.Series(labels[0])}
	for _, l := range labels[1:] {
		s.backends = append(s.backends, metrics.Series(l))
	}
	return s
}

// newDestination compiles a destination with the routes attached to it.
func newDestination(key string, d *wire.Destination, attached []*wire.Route, limits *index[wire.Ref, *ratelimit.Limiter], metrics *telemetry.Metrics) *destination {
	compiled := &destination{Destination: d, key: key, policy: effective(d.Policy)}
	attached = phttp.Attached(d.Protocol, attached)
	compiled.measures = newMeasures(compiled.policy, nil)
	compiled.plain = newSeries(metrics, plainLabels(listenerCaptured, key))
	if len(attached) == 0 {
		return compiled
	}
	// Every route has passed phttp.Check, so none is left out.
	compiled.table, _ = phttp.NewTable(attached)
	compiled.rules = make(map[*wire.Route]*ruleSeries, len(attached))
	compiled.policies = make(map[*wire.Route]*wire.Policy, len(attached))
	compiled.ruleMeasures = make(map[*wire.Route]*measures, len(attached))
	for _, route := range attached {
		compiled.policies[route] = effective(d.Policy, route.Policy)
		compiled.ruleMeasures[route] = newMeasures(compiled.policies[route], limits.get(routeRef(route)))
		compiled.rules[route] = newSeries(metrics, ruleLabels(key, route))
	}
	return compiled
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
	if key == "" {
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
