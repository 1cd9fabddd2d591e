package telemetry

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/attribute"
)

// Decision names a decision about who may call what. Its labels come from configuration.
type Decision struct {
	// Destination is the Service port that was called, as "namespace/name:port".
	Destination string
	// Verdict is allowed, would_deny or denied.
	Verdict string
	// Policy is the MeshAuthorization that decided, as "namespace/name"; empty if only Deny policies are there
	// and none has.
	Policy string
	// Rule is the index of the rule that decided, negative if none has.
	Rule int
}

// decisionSeries are the counters of decisions. Their number counts against the limit of the table; what
// that does not admit is counted together.
type decisionSeries struct {
	table *seriesTable
	// known holds a counter for each Decision and is replaced whole. mu is held to add and to remove.
	known atomic.Pointer[map[Decision]*atomic.Uint64]
	mu    sync.Mutex
	// rest are what the limit did not admit, by verdict.
	rest map[string]*atomic.Uint64
}

var decisionsDesc = prometheus.NewDesc("weft_authorization_decisions_total",
	"Decisions of MeshAuthorizations about requests and connections, by verdict: allowed, denied, or would_deny (audit).",
	[]string{labelDestinationNS, labelDestination, labelPort, labelVerdict, labelPolicy, labelPolicyRule}, nil)

func newDecisionSeries(table *seriesTable) *decisionSeries {
	d := &decisionSeries{table: table, rest: map[string]*atomic.Uint64{}}
	d.known.Store(&map[Decision]*atomic.Uint64{})
	return d
}

// Describe implements prometheus.Collector.
func (d *decisionSeries) Describe(all chan<- *prometheus.Desc) { all <- decisionsDesc }

// Collect implements prometheus.Collector.
func (d *decisionSeries) Collect(metrics chan<- prometheus.Metric) {
	show := func(of Decision, n *atomic.Uint64) {
		rule := ""
		if of.Rule >= 0 {
			rule = strconv.Itoa(of.Rule)
		}
		destination := map[string]string{}
		for _, a := range attribute.AppendDestination(nil, of.Destination) {
			destination[a.Key] = a.Value()
		}
		metrics <- prometheus.MustNewConstMetric(decisionsDesc, prometheus.CounterValue, float64(n.Load()),
			destination[attribute.DestinationNamespace], destination[attribute.DestinationService], destination[attribute.DestinationPort],
			of.Verdict, of.Policy, rule)
	}
	for of, n := range *d.known.Load() {
		show(of, n)
	}
	d.mu.Lock()
	rest := maps.Clone(d.rest)
	d.mu.Unlock()
	for verdict, n := range rest {
		show(Decision{Destination: other, Verdict: verdict, Policy: other, Rule: -1}, n)
	}
}

func (d *decisionSeries) counter(of Decision) *atomic.Uint64 {
	if n := (*d.known.Load())[of]; n != nil {
		return n
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known := *d.known.Load()
	if n := known[of]; n != nil {
		return n
	}
	n := new(atomic.Uint64)
	if !d.table.take(1) {
		if d.rest[of.Verdict] == nil {
			d.rest[of.Verdict] = n
		}
		return d.rest[of.Verdict]
	}
	known = maps.Clone(known)
	known[of] = n
	d.known.Store(&known)
	return n
}

// Decided counts a decision.
func (m *Metrics) Decided(d Decision) { m.decisions.counter(d).Add(1) }

// ForgetDecisions ends the metrics of decisions whose destination or policy is not configured any longer.
func (m *Metrics) ForgetDecisions(gone func(Decision) bool) {
	d := m.decisions
	d.mu.Lock()
	defer d.mu.Unlock()
	left := maps.Clone(*d.known.Load())
	maps.DeleteFunc(left, func(of Decision, _ *atomic.Uint64) bool { return gone(of) })
	d.table.giveBack(len(*d.known.Load()) - len(left))
	d.known.Store(&left)
}
