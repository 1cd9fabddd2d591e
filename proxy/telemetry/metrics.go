// Package telemetry owns the proxy's Prometheus metrics: their names, their labels and the bound on
// how many of them can exist. It measures what it is told and never looks into a request.
//
// Labels that grow with configuration (destination, route, rule, backend) are resolved once, when a
// configuration is built, into handles, and callers once for each connection; the hot path only adds to
// them and allocates nothing. What is not used for half an hour is forgotten. Names follow OpenTelemetry's
// semantic conventions in their Prometheus form where one exists, and start with weft_ elsewhere.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft.dev/weft/proxy/wire"
)

// DefaultSeriesLimit bounds the time series that grow with configuration and traffic.
const DefaultSeriesLimit = 20_000

// Metrics holds every series of one proxy. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	// off tells that requests are not measured.
	off    bool
	series *seriesTable
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
	active             *activeRequests
	certificates       *certificates

	configSequence   prometheus.Gauge
	configAt         prometheus.Gauge
	connected        prometheus.Gauge
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
		}, []string{labelListener, "protocol"}),
		connectionsActive: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_connections_active",
			Help: "Connections open now, by listener and protocol.",
		}, []string{labelListener, "protocol"}),
		connectionsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_connections_refused_total",
			Help: "Connections that were not served, by listener and reason.",
		}, []string{labelListener, labelReason}),
		localResponses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_local_responses_total",
			Help: "Answers that the proxy made itself, by the reason in their weft-reason header.",
		}, []string{labelReason}),
		cuts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_exchanges_cut_total",
			Help: "Responses and relayed connections that ended before they were complete, by reason.",
		}, []string{labelReason}),
		mirrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_mirror_requests_total",
			Help: "Requests due to be mirrored, by outcome.",
		}, []string{"outcome"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_fallbacks_total",
			Help: "Tries sent to the cluster IP of a Service instead of an endpoint, by the reason for it.",
		}, []string{"reason"}),
		configSequence: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_config_sequence",
			Help: "Version of the configuration in force: the operator's publication that it corresponds to.",
		}),
		configAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_config_applied_timestamp_seconds",
			Help: "When the configuration in force was put in force.",
		}),
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_config_connected",
			Help: "1 while the proxy has a stream of configuration from the operator; 0 means that it serves by what it has.",
		}),
		active:       newActiveRequests(),
		certificates: &certificates{},
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
	for _, kind := range []wire.Kind{
		wire.KindMesh, wire.KindCertificate, wire.KindDestination, wire.KindRoute, wire.KindBackend, wire.KindEndpoints,
		wire.KindProxies, wire.KindWorkload, wire.KindAuthorization,
	} {
		// A counter that begins with 1 has not increased, as far as Prometheus can tell.
		m.configRejections.WithLabelValues(string(kind))
	}
	m.backends = newBackendSeries(m.series)
	m.decisions = newDecisionSeries(m.series)
	m.registry.MustRegister(
		m.connections, m.connectionsActive, m.connectionsRefused, m.localResponses, m.cuts, m.mirrors,
		m.fallbacks, m.configSequence, m.configAt, m.connected, m.configRejections, m.configApply, m.ready, m.draining,
		m.active, m.certificates, m.series, m.series.refused, m.series.expired, m.series.present,
		m.backends, m.decisions, buildInfo(),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.registry.MustRegister(m.collectors()...)
	m.series.onBackend = m.backends.used
	return m
}

// Off returns metrics that measure no request, for comparison.
func Off() *Metrics {
	m := New(0)
	m.off = true
	return m
}

// Handler serves the metrics in Prometheus' text format, in that of OpenMetrics, which has exemplars, or as
// protocol buffers, which have native histograms too, as the client asks.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: true})
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
	m.configAt.SetToCurrentTime()
	m.configApply.Observe(took.Seconds())
}

// Connected records whether there is a stream of configuration.
func (m *Metrics) Connected(connected bool) {
	if connected {
		m.connected.Set(1)
	} else {
		m.connected.Set(0)
	}
}

// ConfigRejected counts a resource that could not be used.
func (m *Metrics) ConfigRejected(kind string) { m.configRejections.WithLabelValues(kind).Inc() }

// Ready records that the proxy may be sent connections.
func (m *Metrics) Ready() { m.ready.Set(1) }

// Draining records that the proxy is on its way out.
func (m *Metrics) Draining() { m.draining.Set(1) }
