package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// States of endpoints.
const (
	stateUsable    = "usable"
	stateEjected   = "ejected"
	stateUnhealthy = "unhealthy"
)

// backendSeries are the metrics of Backends whose endpoints this proxy picks. Their number is bounded by the
// configuration and counts against the limit; what the limit does not admit is not measured, since a sum of
// gauges over Backends says nothing.
type backendSeries struct {
	table     *seriesTable
	endpoints *prometheus.GaugeVec
	ejections *prometheus.CounterVec
	open      *prometheus.CounterVec
	pending   *prometheus.GaugeVec

	mu sync.Mutex
	// known are the series of each Backend, by the functions that delete them.
	known map[string]map[backendKey]func()
}

// backendKey tells the series of one Backend apart.
type backendKey struct{ metric, label string }

func newBackendSeries(table *seriesTable) *backendSeries {
	return &backendSeries{
		table: table,
		known: map[string]map[backendKey]func(){},
		endpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_upstream_endpoints",
			Help: "Endpoints of a backend (\"namespace/*\": the proxies of a namespace) by state: usable, ejected, or unhealthy by their health check.",
		}, []string{"backend", "state"}),
		ejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_upstream_ejections_total",
			Help: "Ejections of endpoints, by the cause: consecutive_failures, success_rate, latency, or a failed probe.",
		}, []string{"backend", "cause"}),
		open: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_circuit_breaker_open_total",
			Help: "Requests and connections that were not sent because a limit of their backend is reached, by the limit.",
		}, []string{"backend", "limit"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_circuit_breaker_pending",
			Help: "Requests and connections that wait because a limit of their backend is reached.",
		}, []string{"backend"}),
	}
}

func (b *backendSeries) collectors() []prometheus.Collector {
	return []prometheus.Collector{b.endpoints, b.ejections, b.open, b.pending}
}

// admit tells whether a series may be used, which it becomes known by. b.mu is held.
func (b *backendSeries) admit(backend string, key backendKey, forget func()) bool {
	if b.known[backend][key] != nil {
		return true
	}
	if !b.table.take() {
		return false
	}
	if b.known[backend] == nil {
		b.known[backend] = map[backendKey]func(){}
	}
	b.known[backend][key] = forget
	return true
}

// gauge sets a gauge. One that would begin with zero is left out, so that most Backends have one series.
func (b *backendSeries) gauge(vec *prometheus.GaugeVec, metric string, value int, backend string, labels ...string) {
	key := backendKey{metric: metric}
	if len(labels) > 0 {
		key.label = labels[0]
	}
	values := append([]string{backend}, labels...)
	b.mu.Lock()
	defer b.mu.Unlock()
	if value == 0 && b.known[backend][key] == nil {
		return
	}
	if b.admit(backend, key, func() { vec.DeleteLabelValues(values...) }) {
		vec.WithLabelValues(values...).Set(float64(value))
	}
}

func (b *backendSeries) count(vec *prometheus.CounterVec, metric, backend, label string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.admit(backend, backendKey{metric, label}, func() { vec.DeleteLabelValues(backend, label) }) {
		vec.WithLabelValues(backend, label).Inc()
	}
}

// Endpoints records how many endpoints a backend has in each state.
func (m *Metrics) Endpoints(backend string, usable, ejected, unhealthy int) {
	const metric = "endpoints"
	m.backends.gauge(m.backends.endpoints, metric, usable, backend, stateUsable)
	m.backends.gauge(m.backends.endpoints, metric, ejected, backend, stateEjected)
	m.backends.gauge(m.backends.endpoints, metric, unhealthy, backend, stateUnhealthy)
}

// Ejected counts an ejection. cause is one of a fixed set.
func (m *Metrics) Ejected(backend, cause string) {
	m.backends.count(m.backends.ejections, "ejections", backend, cause)
}

// CircuitOpen counts a request that was refused because of a limit, which is one of a fixed set.
func (m *Metrics) CircuitOpen(backend, limit string) {
	m.backends.count(m.backends.open, "open", backend, limit)
}

// Pending records how many requests wait because of a limit.
func (m *Metrics) Pending(backend string, n int) {
	m.backends.gauge(m.backends.pending, "pending", n, backend)
}

// Forget ends the metrics of a backend that is not configured any longer.
func (m *Metrics) Forget(backend string) {
	b := m.backends
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, forget := range b.known[backend] {
		forget()
		b.table.giveBack()
	}
	delete(b.known, backend)
}
