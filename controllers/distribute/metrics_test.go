package distribute_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// gather returns the value of each series, and the number of observations of a histogram.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := []string{family.GetName()}
			for _, label := range metric.GetLabel() {
				name = append(name, label.GetValue())
			}
			out[strings.Join(name, ",")] = value(family.GetType(), metric)
		}
	}
	return out
}

func value(kind dto.MetricType, metric *dto.Metric) float64 {
	switch kind {
	case dto.MetricType_GAUGE:
		return metric.GetGauge().GetValue()
	case dto.MetricType_HISTOGRAM:
		return float64(metric.GetHistogram().GetSampleCount())
	default:
		return metric.GetCounter().GetValue()
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	hub := newHub(distribute.LayerCompiled)
	hub.Replace(distribute.LayerCompiled, backends(wire.ScopeMesh, 3))
	m := newMesh(t, hub, func(s *distribute.Server) { s.Metrics = distribute.NewMetrics(registry) })
	m.raw("Bearer nonsense").end()
	c := m.raw("Bearer proxy/a/p1")
	c.send(hello())
	c.send(&wire.ClientMessage{Ack: &wire.Ack{Seq: c.delta().Seq, Rejected: []wire.Rejection{
		{Ref: wire.Ref{Kind: wire.KindBackend, Key: "b"}}, {Ref: wire.Ref{Kind: "what a client invents", Key: "x"}},
	}}})
	// That a second delta comes shows that the answer to the first has been counted.
	hub.Patch(distribute.LayerCompiled, []wire.Resource{backend(wire.ScopeMesh, "b/new:80", 1)}, nil)
	c.delta()
	if got := gather(t, registry)["weft_config_clients,proxy"]; got != 1 {
		t.Errorf("%v proxies are connected, want 1", got)
	}
	m.stop()

	got := gather(t, registry)
	if got["weft_config_delta_bytes_total,proxy"] < 100 {
		t.Errorf("%v bytes were sent, want the size of three backends", got["weft_config_delta_bytes_total,proxy"])
	}
	delete(got, "weft_config_delta_bytes_total,proxy")
	want := map[string]float64{
		"weft_config_clients,proxy":                 0,
		"weft_config_deltas_total,proxy":            2,
		"weft_config_delta_resources_total,proxy":   4,
		"weft_config_ack_duration_seconds,proxy":    1,
		"weft_config_rejected_total,Backend":        1,
		"weft_config_rejected_total,unknown":        1,
		"weft_config_refused_total,Unauthenticated": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// TestLag: a client is behind from when it is first seen to owe an acknowledgement until it gives it.
func TestLag(t *testing.T) {
	registry := prometheus.NewRegistry()
	hub := newHub(distribute.LayerCompiled)
	now := time.Unix(1000, 0)
	registry.MustRegister(distribute.NewLagAt(hub, func() time.Time { return now }))
	hub.Replace(distribute.LayerCompiled, backends(wire.ScopeMesh, 3))
	m := newMesh(t, hub, func(*distribute.Server) {})
	c := m.raw("Bearer proxy/a/p1")
	const series = "weft_config_client_lag_seconds,a,p1,proxy"
	acknowledge := func(d *wire.Delta) {
		c.send(&wire.ClientMessage{Ack: &wire.Ack{Seq: d.Seq}})
		for changed := hub.Changed(); hub.Clients()[0].Seq < d.Seq; changed = hub.Changed() {
			<-changed
		}
	}
	c.send(hello())
	acknowledge(c.delta())
	now = now.Add(time.Minute)
	if got := gather(t, registry); got[series] != 0 || got["weft_config_sequence"] != float64(hub.Seq()) {
		t.Errorf("metrics %v although nothing is owed", got)
	}
	hub.Patch(distribute.LayerCompiled, []wire.Resource{backend(wire.ScopeMesh, "b/new:80", 1)}, nil)
	owed := c.delta()
	for _, want := range []float64{0, 30, 60} {
		if got := gather(t, registry)[series]; got != want {
			t.Errorf("behind for %v s, want %v", got, want)
		}
		now = now.Add(30 * time.Second)
	}
	acknowledge(owed)
	if got := gather(t, registry)[series]; got != 0 {
		t.Errorf("behind for %v s after the acknowledgement", got)
	}
}
