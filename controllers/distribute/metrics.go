package distribute

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/attribute"
)

// Metrics are the measurements of a Server.
type Metrics struct {
	clients    *prometheus.GaugeVec
	deltas     *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	resources  *prometheus.CounterVec
	ackLatency *prometheus.HistogramVec
	rejected   *prometheus.CounterVec
	refused    *prometheus.CounterVec
}

// lag is a metric of how far clients are behind, computed when it is asked for.
type lag struct {
	hub *Hub
	now func() time.Time

	mu sync.Mutex
	// behind are the clients that were behind when it was last asked for.
	behind map[slot]behind
}

// behind is what a client had acknowledged, and since when it is known to have had no more.
type behind struct {
	seq   uint64
	since time.Time
}

var (
	sequenceDesc = prometheus.NewDesc("weft_config_sequence",
		"Version of the configuration: the last publication. Of a proxy, the one that it serves by.", nil, nil)
	lagDesc = prometheus.NewDesc("weft_config_client_lag_seconds",
		"How long a connected proxy or node agent has owed the acknowledgement of its configuration; 0 if it owes none. Known to the leader alone, and as fine as it is asked for.",
		[]string{"kind", attribute.Label(attribute.K8sNamespace), attribute.Label(attribute.K8sPod)}, nil)
)

// NewLag returns the metrics of a hub: its version, and how far each client is behind it.
func NewLag(hub *Hub) prometheus.Collector {
	return &lag{hub: hub, now: time.Now, behind: map[slot]behind{}}
}

// Describe implements prometheus.Collector.
func (l *lag) Describe(all chan<- *prometheus.Desc) {
	all <- sequenceDesc
	all <- lagDesc
}

// Collect implements prometheus.Collector.
func (l *lag) Collect(metrics chan<- prometheus.Metric) {
	latest := l.hub.Seq()
	clients, now := l.hub.Clients(), l.now()
	metrics <- prometheus.MustNewConstMetric(sequenceDesc, prometheus.GaugeValue, float64(latest))
	l.mu.Lock()
	defer l.mu.Unlock()
	still := map[slot]behind{}
	for _, c := range clients {
		seconds := 0.0
		if c.Seq < latest {
			was, known := l.behind[c.slot()]
			if !known || was.seq != c.Seq {
				was = behind{c.Seq, now}
			}
			still[c.slot()] = was
			seconds = now.Sub(was.since).Seconds()
		}
		metrics <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, seconds, string(c.Kind), c.Namespace, c.Pod)
	}
	l.behind = still
}

// NewMetrics makes the measurements and registers them; registering twice panics. With a nil
// registerer they are kept but shown nowhere.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	byKind := []string{"kind"}
	m := &Metrics{
		clients: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_config_clients", Help: "Proxies and node agents that have an open configuration stream.",
		}, byKind),
		deltas: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_config_deltas_total", Help: "Configuration deltas sent.",
		}, byKind),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_config_delta_bytes_total", Help: "Size of the configuration deltas sent, before encryption.",
		}, byKind),
		resources: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_config_delta_resources_total", Help: "Resources sent or removed by configuration deltas.",
		}, byKind),
		ackLatency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_config_ack_duration_seconds", Help: "Time from sending a delta to its acknowledgement.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, byKind),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_config_rejected_total", Help: "Resources that clients could not use, by kind of resource.",
		}, []string{"resource"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_config_refused_total", Help: "Streams that were refused before any resource was sent, by gRPC code.",
		}, []string{"code"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.collectors()...)
	}
	return m
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.clients, m.deltas, m.bytes, m.resources, m.ackLatency, m.rejected, m.refused}
}

// Describe sends the descriptions of all metrics of the package.
func Describe(all chan<- *prometheus.Desc) {
	for _, c := range NewMetrics(nil).collectors() {
		c.Describe(all)
	}
	NewLag(nil).Describe(all)
}
