package capture

import (
	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/wire"
)

// Metrics are the agent's counters and the facts of its canary. Pods and proxies are counted when they
// are asked for; see Collector.
type Metrics struct {
	errors    *prometheus.CounterVec
	repairs   prometheus.Counter
	evictions prometheus.Counter
	forgotten prometheus.Counter
	plain     *prometheus.CounterVec
	refused   *prometheus.CounterVec
	proven    *prometheus.GaugeVec
	provenAt  prometheus.Gauge
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_node_errors_total",
			Help: "Failed attempts to change or read rules in a pod's network namespace, by operation.",
		}, []string{"operation"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_node_repairs_total",
			Help: "Pods whose rules were found damaged and were put in force again.",
		}),
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_node_proxy_evictions_total",
			Help: "Proxies that were found dead and got no more connections.",
		}),
		forgotten: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_node_forgotten_connections_total",
			Help: "Connection tracking entries deleted because they led to a dead proxy.",
		}),
		plain: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_node_plain_connections_total",
			Help: "Connections to published ports of pods that came past the mesh and were let in, by the called pod's namespace.",
		}, []string{attribute.Label(attribute.DestinationNamespace)}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_node_refused_connections_total",
			Help: "Connections to strict ports of pods that came past the mesh and were refused, by the called pod's namespace.",
		}, []string{attribute.Label(attribute.DestinationNamespace)}),
		proven: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_node_canary_proven",
			Help: "Whether the last canary run has proven the fact on this node (1) or not (0).",
		}, []string{"fact"}),
		provenAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_node_canary_last_run_timestamp_seconds",
			Help: "When the last canary run ended.",
		}),
	}
	registry.MustRegister(m.errors, m.repairs, m.evictions, m.forgotten, m.plain, m.refused, m.proven, m.provenAt)
	return m
}

func (m *Metrics) canary(report wire.CanaryReport) {
	for fact, proven := range map[string]bool{
		"captured": report.Captured, "guarded": report.Guarded, "strict": report.StrictEnforced,
	} {
		value := 0.0
		if proven {
			value = 1
		}
		m.proven.WithLabelValues(fact).Set(value)
	}
	m.provenAt.Set(float64(report.Time.UnixMilli()) / 1000)
}

var (
	podsDesc = prometheus.NewDesc("weft_node_pods",
		"Pods of the node by state: captured, late (captured, after containers had run without rules) or none.", []string{"state"}, nil)
	proxiesDesc = prometheus.NewDesc("weft_node_proxies",
		"Proxies that pods of the node use, by health as probed.", []string{"health"}, nil)
)

// Describe implements prometheus.Collector.
func (a *Agent) Describe(descs chan<- *prometheus.Desc) {
	descs <- podsDesc
	descs <- proxiesDesc
}

// Collect implements prometheus.Collector.
func (a *Agent) Collect(metrics chan<- prometheus.Metric) {
	pods := map[string]int{"captured": 0, "late": 0, "none": 0}
	a.mu.Lock()
	for _, p := range a.pods {
		switch {
		case p.reported == nil || !p.reported.Captured:
			pods["none"]++
		case p.reported.Late:
			pods["late"]++
		default:
			pods["captured"]++
		}
	}
	a.mu.Unlock()
	for state, count := range pods {
		metrics <- prometheus.MustNewConstMetric(podsDesc, prometheus.GaugeValue, float64(count), state)
	}
	up, down := a.probes.count()
	metrics <- prometheus.MustNewConstMetric(proxiesDesc, prometheus.GaugeValue, float64(up), "live")
	metrics <- prometheus.MustNewConstMetric(proxiesDesc, prometheus.GaugeValue, float64(down), "out")
}
