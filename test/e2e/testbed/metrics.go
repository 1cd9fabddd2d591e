package testbed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"weft.dev/weft/proxy/wire"
)

// Metric returns the sum of the series of a counter or gauge with these labels over all proxies given, and of a
// histogram how much was observed.
func (b *Bed) Metric(t testing.TB, proxies []*Pod, name string, labels map[string]string) int {
	t.Helper()
	total := 0
	for _, p := range proxies {
		n, err := b.TryMetric(t.Context(), p, name, labels)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}

// TryMetric is Metric of one pod, which may not answer yet.
func (b *Bed) TryMetric(ctx context.Context, p *Pod, name string, labels map[string]string) (int, error) {
	data, err := b.Clientset.CoreV1().RESTClient().Get().Namespace(p.Namespace).Resource("pods").
		Name(p.Name + ":" + strconv.Itoa(wire.PortMetrics)).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", p.Name, err)
	}
	metrics, err := parse(bytes.NewReader(data))
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", p.Name, err)
	}
	return metrics.Sum(name, labels), nil
}

// Metrics are what one process says of itself at one time, by name.
type Metrics map[string]*dto.MetricFamily

func parse(text io.Reader) (Metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return families, nil
}

// Sum adds up the series of a counter or gauge with these labels.
func (m Metrics) Sum(name string, labels map[string]string) int {
	total := 0.0
	for _, m := range m[name].GetMetric() {
		if labelled(m, labels) {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return int(total)
}

func labelled(m *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, l := range m.GetLabel() {
		if want, ok := labels[l.GetName()]; ok {
			if l.GetValue() != want {
				return false
			}
			found++
		}
	}
	return found == len(labels)
}
