package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
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
}

// decisionSeries are the counters of decisions. Their number counts against the limit of the table; what
// that does not admit is counted together.
type decisionSeries struct {
	table *seriesTable
	vec   *prometheus.CounterVec
	// known holds a counter for each Decision. mu is held to add and to remove.
	known sync.Map
	mu    sync.Mutex
}

func newDecisionSeries(table *seriesTable) *decisionSeries {
	return &decisionSeries{
		table: table,
		vec: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_authorization_decisions_total",
			Help: "Decisions of MeshAuthorizations about requests and connections, by verdict: allowed, denied, or would_deny (audit).",
		}, []string{"destination", "verdict", "policy"}),
	}
}

func (d *decisionSeries) counter(of Decision) prometheus.Counter {
	if c, known := d.known.Load(of); known {
		return c.(prometheus.Counter) //nolint:forcetypeassert // nothing else is stored
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, known := d.known.Load(of); known {
		return c.(prometheus.Counter) //nolint:forcetypeassert // nothing else is stored
	}
	if !d.table.take() {
		return d.vec.WithLabelValues(overflow.Destination, of.Verdict, overflow.Destination)
	}
	c := d.vec.WithLabelValues(of.Destination, of.Verdict, of.Policy)
	d.known.Store(of, c)
	return c
}

// Decided counts a decision.
func (m *Metrics) Decided(d Decision) { m.decisions.counter(d).Inc() }

// ForgetDecisions ends the metrics of decisions whose destination or policy is not configured any longer.
func (m *Metrics) ForgetDecisions(gone func(Decision) bool) {
	d := m.decisions
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known.Range(func(key, _ any) bool {
		if of := key.(Decision); gone(of) { //nolint:forcetypeassert // nothing else is stored
			d.known.Delete(of)
			d.vec.DeleteLabelValues(of.Destination, of.Verdict, of.Policy)
			d.table.giveBack()
		}
		return true
	})
}
