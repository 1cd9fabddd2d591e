package distribute

import "github.com/prometheus/client_golang/prometheus"

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
			Name: "weft_config_ack_seconds", Help: "Time from sending a delta to its acknowledgement.",
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
		registerer.MustRegister(m.clients, m.deltas, m.bytes, m.resources, m.ackLatency, m.rejected, m.refused)
	}
	return m
}
