package proxies

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// durationMetrics are the metrics of proxies that traffic is read from: requests, and calls of gRPC.
var durationMetrics = []string{"http_server_request_duration_seconds", "rpc_server_call_duration_seconds"}

// failedCalls are the statuses of gRPC that count as failures, as error.type of OpenTelemetry has them for servers.
var failedCalls = map[string]bool{
	"UNKNOWN": true, "DEADLINE_EXCEEDED": true, "UNIMPLEMENTED": true, "INTERNAL": true, "UNAVAILABLE": true, "DATA_LOSS": true,
}

// Sample is what the proxies of a mesh had counted at one moment: of requests that came from clients, by what
// somebody groups them by.
type Sample map[string]*counted

type counted struct {
	requests, failed float64
	// buckets are cumulative counts by upper bound.
	buckets map[float64]float64
}

// By says what requests are grouped by, from their labels and the namespace of the proxy.
type By func(labels map[string]string, namespace string) string

// ByService is the Service port that was called, ByBackend the one that has served, ByRoute the rule that took the
// request, ByNamespace the caller's namespace, ByCaller its ServiceAccount.
func ByService(labels map[string]string, _ string) string {
	if labels["weft_destination_namespace"] == "" {
		return labels["weft_destination_service"] // what the limit of series has not admitted
	}
	return labels["weft_destination_namespace"] + "/" + labels["weft_destination_service"] + ":" + labels["weft_destination_port"]
}

// ByBackend is described at ByService.
func ByBackend(labels map[string]string, _ string) string { return labels["weft_backend"] }

// ByCaller is described at ByService.
func ByCaller(labels map[string]string, _ string) string {
	if labels["weft_source_service_account"] == "" {
		return ""
	}
	return labels["weft_source_namespace"] + "/" + labels["weft_source_service_account"]
}

// ByRoute is described at ByService.
func ByRoute(labels map[string]string, _ string) string {
	if labels["weft_route_name"] == "" {
		return ""
	}
	return labels["weft_route_kind"] + "/" + labels["weft_route_namespace"] + "/" + labels["weft_route_name"] + " " + labels["weft_rule"]
}

// ByNamespace is described at ByService.
func ByNamespace(_ map[string]string, namespace string) string { return namespace }

// Add adds the metrics of a proxy of a namespace.
func (s Sample) Add(namespace string, families map[string]*dto.MetricFamily, by By) {
	for _, name := range durationMetrics {
		for _, m := range families[name].GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			key := by(labels, namespace)
			// Over the hop a request is counted a second time.
			if key == "" || labels["weft_listener"] != "captured" {
				continue
			}
			if s[key] == nil {
				s[key] = &counted{buckets: map[float64]float64{}}
			}
			s[key].add(m.GetHistogram(), failed(labels))
		}
	}
}

// failed tells whether what these labels count was answered 5xx or with a failure of gRPC, or left by its client.
func failed(labels map[string]string) bool {
	return strings.HasPrefix(labels["http_response_status_code"], "5") || failedCalls[labels["rpc_response_status_code"]] ||
		labels["error_type"] == "client_gone"
}

func (c *counted) add(h *dto.Histogram, failed bool) {
	n := float64(h.GetSampleCount())
	c.requests += n
	if failed {
		c.failed += n
	}
	for _, b := range h.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) { // the text has it, others do not
			c.buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	}
	c.buckets[math.Inf(1)] += n
}

// Merge adds another sample of the same grouping.
func (s Sample) Merge(other Sample) {
	for key, more := range other {
		c := s[key]
		if c == nil {
			s[key] = more
			continue
		}
		c.requests += more.requests
		c.failed += more.failed
		for bound, n := range more.buckets {
			c.buckets[bound] += n
		}
	}
}

// Traffic is what happened between two samples.
type Traffic struct {
	Name string `json:"name"`
	// Requests are all, PerSecond those of a second, Success is the share in percent that was neither answered 5xx nor left by its
	// client.
	Requests  int64   `json:"requests"`
	PerSecond float64 `json:"perSecond"`
	Success   float64 `json:"success"`
	// P50, P95 and P99 are latencies in milliseconds, 0 if there was no request.
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// Between tells what happened between two samples that were taken some time apart, the busiest first. A proxy that
// started in between only adds; one that ended takes nothing away.
func Between(before, after Sample, apart time.Duration) []Traffic {
	out := []Traffic{}
	for name, now := range after {
		was := before[name]
		if was == nil {
			was = &counted{}
		}
		requests := max(now.requests-was.requests, 0)
		if requests == 0 {
			continue
		}
		t := Traffic{Name: name, Requests: int64(requests), PerSecond: requests / apart.Seconds(), Success: 100 * (1 - max(now.failed-was.failed, 0)/requests)}
		buckets := map[float64]float64{}
		for bound, n := range now.buckets {
			buckets[bound] = max(n-was.buckets[bound], 0)
		}
		t.P50, t.P95, t.P99 = quantile(0.5, buckets), quantile(0.95, buckets), quantile(0.99, buckets)
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Traffic) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// quantile estimates one in milliseconds, as Prometheus does: evenly within a bucket, and for the last the bound
// before.
func quantile(q float64, buckets map[float64]float64) float64 {
	bounds := make([]float64, 0, len(buckets))
	for bound := range buckets {
		bounds = append(bounds, bound)
	}
	slices.Sort(bounds)
	if len(bounds) == 0 {
		return 0
	}
	rank := q * buckets[bounds[len(bounds)-1]]
	if rank == 0 {
		return 0
	}
	lower, below := 0.0, 0.0
	for _, bound := range bounds {
		n := buckets[bound]
		if n >= rank {
			if math.IsInf(bound, 1) {
				return lower * 1000
			}
			return 1000 * (lower + (bound-lower)*(rank-below)/(n-below))
		}
		lower, below = bound, n
	}
	return lower * 1000
}
