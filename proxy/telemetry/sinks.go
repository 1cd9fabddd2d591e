package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Sink tells what has become of what was handed to the background: how much has gone out, how much found no room, and
// how much could not be handed over.
type Sink func() (out, overflowed, failed uint64)

// Reasons for what was dropped.
const (
	droppedOverflow = "overflow"
	droppedFailed   = "failed"
)

// Traces measures the way of spans to the collector, AccessLog that of lines. Each is called at most once.
func (m *Metrics) Traces(s Sink) {
	m.sink("weft_trace_spans", "Spans", "that the collector of traces has taken", s)
}

// AccessLog measures the way of lines to where they are written.
func (m *Metrics) AccessLog(s Sink) {
	m.sink("weft_access_log_lines", "Lines of the access log", "that were written", s)
}

func (m *Metrics) sink(name, what, out string, s Sink) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: name + "_total", Help: what + " " + out + ".",
	}, func() float64 {
		n, _, _ := s()
		return float64(n)
	}))
	for reason, dropped := range map[string]func() uint64{
		droppedOverflow: func() uint64 { _, n, _ := s(); return n },
		droppedFailed:   func() uint64 { _, _, n := s(); return n },
	} {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: name + "_dropped_total", Help: what + " that were dropped, by why: there was no room, or they could not be handed over.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(dropped()) }))
	}
}
