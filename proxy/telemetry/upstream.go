package telemetry

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// States of endpoints.
const (
	stateUsable    = "usable"
	stateEjected   = "ejected"
	stateUnhealthy = "unhealthy"
)

// backendSeries are the metrics of Backends whose endpoints this proxy picks. A Backend is shown once it has been
// used, or has an endpoint that is not well, so that those which only exist cost nothing. Their number counts against
// the limit; what the limit does not admit is not measured, since a sum of gauges over Backends says nothing.
type backendSeries struct {
	table *seriesTable
	mu    sync.Mutex
	known map[string]*backendState
}

// backendState is what is known of one Backend.
type backendState struct {
	usable, ejected, unhealthy, pending int
	// shown tells that the endpoints are shown, waited that something had to wait, refused that the limit has not
	// admitted a series; it is not asked again.
	shown, waited, refused bool
	ejections, open        map[string]uint64
	// cost is how many series there are.
	cost int
}

var (
	endpointsDesc = prometheus.NewDesc("weft_upstream_endpoints",
		"Endpoints of a backend (\"namespace/*\": the proxies of a namespace) by state: usable, ejected, or unhealthy by their health check. Shown from the first use of the backend on.",
		[]string{labelBackend, "state"}, nil)
	ejectionsDesc = prometheus.NewDesc("weft_upstream_ejections_total",
		"Ejections of endpoints, by the cause: consecutive_failures, success_rate, latency, or a failed probe.",
		[]string{labelBackend, "cause"}, nil)
	openDesc = prometheus.NewDesc("weft_circuit_breaker_open_total",
		"Requests and connections that were not sent because a limit of their backend is reached, by the limit.",
		[]string{labelBackend, "limit"}, nil)
	pendingDesc = prometheus.NewDesc("weft_circuit_breaker_pending",
		"Requests and connections that wait because a limit of their backend is reached. Above 0 the breaker is open.",
		[]string{labelBackend}, nil)
)

func newBackendSeries(table *seriesTable) *backendSeries {
	return &backendSeries{table: table, known: map[string]*backendState{}}
}

// Describe implements prometheus.Collector.
func (b *backendSeries) Describe(all chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointsDesc, ejectionsDesc, openDesc, pendingDesc} {
		all <- d
	}
}

// Collect implements prometheus.Collector.
func (b *backendSeries) Collect(metrics chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for backend, s := range b.known {
		gauge := func(desc *prometheus.Desc, value int, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), append([]string{backend}, labels...)...)
		}
		if s.shown {
			gauge(endpointsDesc, s.usable, stateUsable)
			gauge(endpointsDesc, s.ejected, stateEjected)
			gauge(endpointsDesc, s.unhealthy, stateUnhealthy)
		}
		if s.waited {
			gauge(pendingDesc, s.pending)
		}
		for cause, n := range s.ejections {
			metrics <- prometheus.MustNewConstMetric(ejectionsDesc, prometheus.CounterValue, float64(n), backend, cause)
		}
		for limit, n := range s.open {
			metrics <- prometheus.MustNewConstMetric(openDesc, prometheus.CounterValue, float64(n), backend, limit)
		}
	}
}

// of returns the state of a backend. b.mu is held.
func (b *backendSeries) of(backend string) *backendState {
	s := b.known[backend]
	if s == nil {
		s = &backendState{}
		b.known[backend] = s
	}
	return s
}

// admit tells whether n more series of a backend may exist. b.mu is held.
func (b *backendSeries) admit(s *backendState, n int) bool {
	if s.refused || !b.table.take(n) {
		s.refused = true
		return false
	}
	s.cost += n
	return true
}

// used shows the endpoints of a backend.
func (b *backendSeries) used(backend string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.known[backend]; s != nil && !s.shown {
		s.shown = b.admit(s, 3)
	}
}

// Endpoints records how many endpoints a backend has in each state.
func (m *Metrics) Endpoints(backend string, usable, ejected, unhealthy int) {
	b := m.backends
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.of(backend)
	s.usable, s.ejected, s.unhealthy = usable, ejected, unhealthy
	if !s.shown && (ejected > 0 || unhealthy > 0 || strings.HasSuffix(backend, "/*")) {
		s.shown = b.admit(s, 3)
	}
}

// Ejected counts an ejection. cause is one of a fixed set.
func (m *Metrics) Ejected(backend, cause string) {
	b := m.backends
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.of(backend)
	b.count(s, &s.ejections, cause)
}

// CircuitOpen counts a request that was refused because of a limit, which is one of a fixed set.
func (m *Metrics) CircuitOpen(backend, limit string) {
	b := m.backends
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.of(backend)
	b.count(s, &s.open, limit)
}

func (b *backendSeries) count(s *backendState, counts *map[string]uint64, label string) {
	if _, there := (*counts)[label]; !there && !b.admit(s, 1) {
		return
	}
	if *counts == nil {
		*counts = map[string]uint64{}
	}
	(*counts)[label]++
}

// Pending records how many requests wait because of a limit.
func (m *Metrics) Pending(backend string, n int) {
	b := m.backends
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.of(backend)
	s.pending = n
	if n > 0 && !s.waited {
		s.waited = b.admit(s, 1)
	}
}

// Forget ends the metrics of a backend that is not configured any longer.
func (m *Metrics) Forget(backend string) {
	b := m.backends
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.known[backend]; s != nil {
		b.table.giveBack(s.cost)
		delete(b.known, backend)
	}
}
