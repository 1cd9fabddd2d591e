package telemetry

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/wire"
)

// Listeners.
const (
	ListenerCaptured = "captured"
	ListenerHop      = "hop"
)

// activeRequests count requests under way.
type activeRequests struct {
	desc          *prometheus.Desc
	captured, hop atomic.Int64
}

func newActiveRequests() *activeRequests {
	return &activeRequests{desc: prometheus.NewDesc("http_server_active_requests",
		"Requests and gRPC calls under way.", []string{labelListener}, nil)}
}

// Describe implements prometheus.Collector.
func (a *activeRequests) Describe(all chan<- *prometheus.Desc) { all <- a.desc }

// Collect implements prometheus.Collector.
func (a *activeRequests) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, float64(a.captured.Load()), ListenerCaptured)
	metrics <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, float64(a.hop.Load()), ListenerHop)
}

// Active adds n to the requests under way that came in at a listener.
func (m *Metrics) Active(listener string, n int64) {
	switch {
	case m.off:
	case listener == ListenerHop:
		m.active.hop.Add(n)
	default:
		m.active.captured.Add(n)
	}
}

// CertificateExpiration is the metric of when certificates end, of proxies and the operator.
const CertificateExpiration = "weft_certificate_expiration_timestamp_seconds"

// certificates tell when the proxy's certificates end. There are as many as ServiceAccounts that run pods.
type certificates struct {
	mu   sync.Mutex
	ends map[string]time.Time
}

var certificatesDesc = prometheus.NewDesc(CertificateExpiration,
	"When a certificate ends, as seconds since 1970; of a workload's, by its ServiceAccount.", []string{"certificate", labelSourceAccount}, nil)

// Describe implements prometheus.Collector.
func (c *certificates) Describe(all chan<- *prometheus.Desc) { all <- certificatesDesc }

// Collect implements prometheus.Collector.
func (c *certificates) Collect(metrics chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for account, end := range c.ends {
		metrics <- prometheus.MustNewConstMetric(certificatesDesc, prometheus.GaugeValue, float64(end.Unix()), "workload", account)
	}
}

// maxCertificates bounds how many ServiceAccounts' certificates are shown; those that end first are.
const maxCertificates = 500

// Certificates records when the certificates in force end, by ServiceAccount.
func (m *Metrics) Certificates(ends map[string]time.Time) {
	for len(ends) > maxCertificates {
		latest := ""
		for account, end := range ends {
			if latest == "" || end.After(ends[latest]) {
				latest = account
			}
		}
		delete(ends, latest)
	}
	m.certificates.mu.Lock()
	defer m.certificates.mu.Unlock()
	m.certificates.ends = ends
}

// buildInfo tells the proxy's version.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weft_build_info", Help: "1, with the version as its label.",
	}, []string{"version"})
	info.WithLabelValues(wire.Build).Set(1)
	return info
}
