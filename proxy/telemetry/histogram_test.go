package telemetry

import (
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/proxy/trace"
)

// TestHistogramAgreesWithPrometheus: the buckets of both forms are those that Prometheus' own library counts in.
func TestHistogramAgreesWithPrometheus(t *testing.T) {
	h := &histogram{}
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "h", Buckets: durationBuckets[:], NativeHistogramBucketFactor: 1.09051,
		NativeHistogramZeroThreshold: 1e-100, NativeHistogramMaxBucketNumber: 1000,
	})
	for _, seconds := range []float64{2e-6, 1e-3, 0.0010001, 0.25, 0.5, 0.5001, 0.7, 1, 1.0905, 2, 3, 1024, 80_000} {
		took := time.Duration(math.Round(seconds * 1e9))
		for range 3 {
			h.observe(took, trace.ID{})
			theirs.Observe(took.Seconds())
		}
	}
	var written dto.Metric
	if err := theirs.Write(&written); err != nil {
		t.Fatal(err)
	}
	got, want := h.write(), written.GetHistogram()
	if got.GetSchema() != want.GetSchema() || got.GetSampleCount() != want.GetSampleCount() {
		t.Fatalf("schema %d with %d observations, want %d with %d", got.GetSchema(), got.GetSampleCount(), want.GetSchema(), want.GetSampleCount())
	}
	if math.Abs(got.GetSampleSum()-want.GetSampleSum()) > 1e-6 {
		t.Errorf("sum %v, want %v", got.GetSampleSum(), want.GetSampleSum())
	}
	for i, b := range want.GetBucket() {
		if g := got.GetBucket()[i]; g.GetUpperBound() != b.GetUpperBound() || g.GetCumulativeCount() != b.GetCumulativeCount() {
			t.Errorf("bucket %v, want %v", g, b)
		}
	}
	for index, n := range native(want) {
		if native(got)[index] != n {
			t.Errorf("native bucket %d has %d, want %d", index, native(got)[index], n)
		}
	}
	if len(native(got)) != len(native(want)) {
		t.Errorf("native buckets %v, want %v", native(got), native(want))
	}
}

// native are the native buckets that are not empty.
func native(h *dto.Histogram) map[int32]int64 {
	buckets := map[int32]int64{}
	index, n, next := int32(0), int64(0), 0
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			n += h.GetPositiveDelta()[next]
			if n != 0 {
				buckets[index] = n
			}
			next++
			index++
		}
	}
	return buckets
}

// TestDurationsOutsideCountAtTheEdge: nothing is lost, and nothing panics.
func TestDurationsOutsideCountAtTheEdge(t *testing.T) {
	h := &histogram{}
	for _, took := range []time.Duration{-1, 0, 1, math.MaxInt64} {
		h.observe(took, trace.ID{})
	}
	if n := h.write().GetSampleCount(); n != 4 || h.count() != 4 {
		t.Errorf("%d observations", n)
	}
}

// TestExemplars: who asks for OpenMetrics gets a sampled trace as an example of each bucket.
func TestExemplars(t *testing.T) {
	m := New(0)
	s := m.Series(rule(0))
	s.Request(&Outcome{Status: 200, Took: 3 * time.Millisecond, Trace: trace.SampledParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")})
	s.Request(&Outcome{Status: 200, Took: time.Minute, Trace: trace.SampledParent("00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01")})
	// An example is kept for a while, so that little has to be stored.
	s.Request(&Outcome{Status: 200, Took: 4 * time.Millisecond, Trace: trace.ID{1}})
	recorder := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	m.Handler().ServeHTTP(recorder, r)
	var with []string
	for line := range strings.Lines(recorder.Body.String()) {
		if _, example, ok := strings.Cut(line, " # "); ok && strings.Contains(line, "http_server_request") {
			with = append(with, strings.Fields(example)[0])
		}
	}
	want := []string{`{trace_id="0af7651916cd43dd8448eb211c80319c"}`, `{trace_id="ffffffffffffffffffffffffffffffff"}`}
	if strings.Join(with, " ") != strings.Join(want, " ") {
		t.Errorf("examples %v, want %v", with, want)
	}
}
