package telemetry

import "github.com/prometheus/client_golang/prometheus"

// measureMetrics count what policies do to requests beyond answering them.
type measureMetrics struct {
	faults  *prometheus.CounterVec
	crowded prometheus.Counter
}

func newMeasureMetrics() measureMetrics {
	return measureMetrics{
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_faults_injected_total",
			Help: "Faults injected into requests, by kind.",
		}, []string{"kind"}),
		crowded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_rate_limit_crowded_total",
			Help: "Requests that shared one rate limit because more key values were in use than are counted apart.",
		}),
	}
}

func (m *measureMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.faults, m.crowded}
}

// Kinds of faults.
const (
	FaultDelay = "delay"
	FaultAbort = "abort"
)

// Fault counts a fault that was injected into a request.
func (m *measureMetrics) Fault(kind string) { m.faults.WithLabelValues(kind).Inc() }

// RateLimitCrowded counts a request that had no bucket of its own.
func (m *measureMetrics) RateLimitCrowded() { m.crowded.Inc() }
