// Package telemetry owns the proxy's Prometheus metrics: their names, their labels and the bound on
// how many of them can exist. It measures what it is told and never looks into a request.
//
// Labels that grow with configuration (destination, route, rule, backend) are resolved once, when a
// configuration is built, into handles; the hot path only adds to them. Names follow OpenTelemetry's
// semantic conventions in their Prometheus form where one exists, and start with weft_ elsewhere.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// DefaultSeriesLimit bounds the time series that grow with configuration and traffic.
const DefaultSeriesLimit = 20_000

// durationBuckets are those that OpenTelemetry advises for http.server.request.duration, with two
// finer ones in front, since calls inside a cluster often end within 5 ms.
var durationBuckets = []float64{
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
}

// Metrics holds every series of one proxy. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	series   *seriesTable
	measureMetrics
	backends  *backendSeries
	decisions *decisionSeries

	connections        *prometheus.CounterVec
	connectionsActive  *prometheus.GaugeVec
	connectionsRefused *prometheus.CounterVec
	localResponses     *prometheus.CounterVec
	cuts               *prometheus.CounterVec
	mirrors            *prometheus.CounterVec
	fallbacks          *prometheus.CounterVec
	relayedBytes       *prometheus.CounterVec

	configSequence   prometheus.Gauge
	configRejections *prometheus.CounterVec
	configApply      prometheus.Histogram
	ready            prometheus.Gauge
	draining         prometheus.Gauge
}

// New returns metrics in a registry of their own. seriesLimit bounds the series that grow with
// configuration; zero means DefaultSeriesLimit.
func New(seriesLimit int) *Metrics {
	if seriesLimit <= 0 {
		seriesLimit = DefaultSeriesLimit
	}
	m := &Metrics{
		registry:       prometheus.NewRegistry(),
		series:         newSeriesTable(seriesLimit),
		measureMetrics: newMeasureMetrics(),
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_connections_total",
			Help: "Connections accepted, by listener and protocol.",
		}, []string{"listener", "protocol"}),
		connectionsActive: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_connections_active",
			Help: "Connections open now, by listener and protocol.",
		}, []string{"listener", "protocol"}),
		connectionsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_connections_refused_total",
			Help: "Connections that were not served, by listener and reason.",
		}, []string{"listener", "reason"}),
		localResponses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_local_responses_total",
			Help: "Answers that the proxy made itself, by the reason in their weft-reason header.",
		}, []string{"reason"}),
		cuts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_exchanges_cut_total",
			Help: "Responses and relayed connections that ended before they were complete, by reason.",
		}, []string{"reason"}),
		mirrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_mirror_requests_total",
			Help: "Requests due to be mirrored, by outcome.",
		}, []string{"outcome"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_fallbacks_total",
			Help: "Tries sent to the cluster IP of a Service instead of an endpoint, by the reason for it.",
		}, []string{"reason"}),
		relayedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_relayed_bytes_total",
			Help: "Bytes of TCP and upgraded connections, by protocol and direction.",
		}, []string{"protocol", "direction"}),
		configSequence: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_config_sequence",
			Help: "Sequence number of the configuration in force.",
		}),
		configRejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_config_rejections_total",
			Help: "Resources that could not be used, by kind; their previous version stays in force.",
		}, []string{"kind"}),
		configApply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "weft_config_apply_duration_seconds",
			Help:    "Time from receiving a delta to serving by it.",
			Buckets: []float64{0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5},
		}),
		ready: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_ready",
			Help: "1 once the first complete configuration and the proxy's own certificate are in force.",
		}),
		draining: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_draining",
			Help: "1 while the proxy waits for its connections to end.",
		}),
	}
	m.backends = newBackendSeries(m.series)
	m.decisions = newDecisionSeries(m.series)
	m.registry.MustRegister(
		m.connections, m.connectionsActive, m.connectionsRefused, m.localResponses, m.cuts, m.mirrors,
		m.fallbacks, m.relayedBytes, m.configSequence, m.configRejections, m.configApply, m.ready, m.draining,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.registry.MustRegister(m.series.collectors()...)
	m.registry.MustRegister(m.collectors()...)
	m.registry.MustRegister(m.backends.collectors()...)
	m.registry.MustRegister(m.decisions.vec)
	return m
}

// Handler serves the metrics in Prometheus' text formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Gatherer gives access to the metrics without HTTP.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// LocalResponse counts an answer that the proxy made itself. reason is one of a fixed set.
func (m *Metrics) LocalResponse(reason string) { m.localResponses.WithLabelValues(reason).Inc() }

// Cut counts a response or a relayed connection that ended before it was complete, and not because its
// client has gone. reason is one of a fixed set.
func (m *Metrics) Cut(reason string) { m.cuts.WithLabelValues(reason).Inc() }

// Mirror outcomes.
const (
	MirrorSent    = "sent"
	MirrorFailed  = "failed"
	MirrorDropped = "dropped"
)

// Mirror counts a request that was due to be mirrored.
func (m *Metrics) Mirror(outcome string) { m.mirrors.WithLabelValues(outcome).Inc() }

// Reasons for a fallback to the cluster IP of a Service.
const (
	// FallbackDisconnected: the stream of configuration is lost and every known endpoint refuses.
	FallbackDisconnected = "disconnected"
	// FallbackDeparted: the Service is not in the mesh any more.
	FallbackDeparted = "departed"
)

// Fallback counts a try that was sent to the cluster IP of a Service.
func (m *Metrics) Fallback(reason string) { m.fallbacks.WithLabelValues(reason).Inc() }

// Relayed counts the bytes of one TCP or upgraded connection: sent came from the client.
func (m *Metrics) Relayed(protocol string, sent, received int64) {
	m.relayedBytes.WithLabelValues(protocol, "sent").Add(float64(sent))
	m.relayedBytes.WithLabelValues(protocol, "received").Add(float64(received))
}

// ConnectionOpened counts an accepted connection; the function it returns is called once, at its end.
// listener and protocol are of fixed sets.
func (m *Metrics) ConnectionOpened(listener, protocol string) (closed func()) {
	m.connections.WithLabelValues(listener, protocol).Inc()
	active := m.connectionsActive.WithLabelValues(listener, protocol)
	active.Inc()
	return active.Dec
}

// ConnectionRefused counts a connection that is not served. reason is one of a fixed set.
func (m *Metrics) ConnectionRefused(listener, reason string) {
	m.connectionsRefused.WithLabelValues(listener, reason).Inc()
}

// ConfigApplied records that the configuration with this sequence number is in force, and how long
// it took to build.
func (m *Metrics) ConfigApplied(seq uint64, took time.Duration) {
	m.configSequence.Set(float64(seq))
	m.configApply.Observe(took.Seconds())
}

// ConfigRejected counts a resource that could not be used.
func (m *Metrics) ConfigRejected(kind string) { m.configRejections.WithLabelValues(kind).Inc() }

// Ready records that the proxy may be sent connections.
func (m *Metrics) Ready() { m.ready.Set(1) }

// Draining records that the proxy is on its way out.
func (m *Metrics) Draining() { m.draining.Set(1) }
