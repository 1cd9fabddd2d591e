package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/kubernetes"

	"weft.dev/weft/test/bench/cost"
)

// counters are what is read before and after.
type counters struct {
	// statusWrites are those that the API server has counted.
	statusWrites float64
	// bytes were sent to proxies, heap is in use, cpu are the seconds of processor time, all of the operator.
	bytes, heap, cpu float64
}

func (s *stage) counters(ctx context.Context) (c counters, err error) {
	clientset, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return c, fmt.Errorf("client: %w", err)
	}
	data, err := clientset.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return c, fmt.Errorf("metrics of the API server: %w", err)
	}
	server, err := parse(bytes.NewReader(data))
	if err != nil {
		return c, err
	}
	for _, m := range server["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if isStatusWrite(labels["resource"], labels["subresource"], labels["verb"]) {
			c.statusWrites += m.GetCounter().GetValue()
		}
	}
	own, err := s.operatorMetrics(ctx)
	if err != nil {
		return c, err
	}
	c.bytes, c.heap = sum(own["weft_config_delta_bytes_total"]), sum(own["go_memstats_heap_inuse_bytes"])
	c.cpu = sum(own["process_cpu_seconds_total"])
	return c, nil
}

func (s *stage) operatorMetrics(ctx context.Context) (own map[string]*dto.MetricFamily, err error) {
	c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // its certificate is its own, on loopback
	}}
	defer c.CloseIdleConnections()
	err = until(ctx, "the operator serves no metrics", func() (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.addresses.metrics+"/metrics", http.NoBody)
		if err != nil {
			return false, fmt.Errorf("metrics: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+s.token)
		response, err := c.Do(request)
		if err != nil {
			return false, fmt.Errorf("metrics: %w", err)
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return false, fmt.Errorf("metrics: %s", response.Status)
		}
		own, err = parse(response.Body)
		return err == nil, err
	})
	return own, err
}

func parse(r io.Reader) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return families, nil
}

// sum adds up counters or gauges.
func sum(f *dto.MetricFamily) float64 {
	var total float64
	for _, m := range f.GetMetric() {
		total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return total
}

// memoryOf returns the proportional set size of a process in MiB.
func memoryOf(pid int) (float64, error) {
	held, err := cost.MemoryOf(pid)
	return held.Proportional / (1 << 20), err
}
