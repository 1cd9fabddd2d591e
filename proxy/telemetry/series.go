package telemetry

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Labels name what a request was for. They come from configuration, never from the request.
type Labels struct {
	// Listener is where the request came in: from a pod of this namespace or over the hop.
	Listener string
	// Destination is the Service port that the client addressed, as "namespace/name:port".
	Destination string
	// Route is "Kind/namespace/name", empty where the Service was served without a route.
	Route string
	// Rule is the rule's name, or its index if it has none.
	Rule string
	// Backend is the Service port that was chosen, as "namespace/name:port"; empty if the answer was
	// made without one.
	Backend string
}

// overflow stands for all series that the limit did not admit.
var overflow = Labels{Listener: "_other", Destination: "_other", Route: "_other", Rule: "_other", Backend: "_other"}

func (l Labels) values(more ...string) []string {
	return append([]string{l.Listener, l.Destination, l.Route, l.Rule, l.Backend}, more...)
}

var labelNames = []string{"listener", "destination", "route", "rule", "backend"}

// Retry reasons.
const (
	RetryConnect     = "connect_failure"
	RetryUnprocessed = "not_processed"
	RetryReset       = "reset"
	RetryTimeout     = "timeout"
	RetryStatus      = "status"
)

var retryReasons = [...]string{RetryConnect, RetryUnprocessed, RetryReset, RetryTimeout, RetryStatus}

// Series are the metrics of one Labels. Each comes into being with its first use, so that a
// configuration with many rules costs nothing until they are used. Safe for concurrent use.
type Series struct {
	table  *seriesTable
	labels Labels
	// used and dropped are guarded by the table's lock.
	used    int
	dropped bool

	duration slot[prometheus.Observer]
	requests [len(classNames)]slot[prometheus.Counter]
	tries    slot[prometheus.Counter]
	retries  [len(retryReasons)]slot[prometheus.Counter]
}

// slot holds a metric once it has been used.
type slot[M any] struct{ metric atomic.Pointer[M] }

// get returns the metric, made by create the first time. cost is how many series it consists of.
func get[M any](s *Series, slot *slot[M], cost int, create func(Labels) M) M {
	if m := slot.metric.Load(); m != nil {
		return *m
	}
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	if m := slot.metric.Load(); m != nil {
		return *m
	}
	m := create(s.table.admit(s, cost))
	slot.metric.Store(&m)
	return m
}

// seriesTable creates series until its limit is reached; from then on everything new is counted in
// one set of series labelled "_other".
type seriesTable struct {
	duration *prometheus.HistogramVec
	requests *prometheus.CounterVec
	tries    *prometheus.CounterVec
	retries  *prometheus.CounterVec
	refused  prometheus.Counter
	present  prometheus.GaugeFunc

	limit int
	mu    sync.Mutex
	used  int
	// byLabels holds one Series per Labels, so that a rebuilt configuration goes on counting where
	// its predecessor stopped.
	byLabels map[Labels]*Series
}

func newSeriesTable(limit int) *seriesTable {
	with := func(more string) []string { return append(slices.Clone(labelNames), more) }
	t := &seriesTable{
		limit:    limit,
		byLabels: map[Labels]*Series{},
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "http_server_request_duration_seconds",
			Help:    "Time from a request's head to the end of its answer.",
			Buckets: durationBuckets,
		}, labelNames),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_server_requests_total",
			Help: "Requests by status class; 0xx are those whose client went away before an answer.",
		}, with("http_response_status_class")),
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_upstream_tries_total",
			Help: "Tries to have a request answered by a backend; more than requests if some were repeated.",
		}, labelNames),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_upstream_retries_total",
			Help: "Repeated tries, by the reason that the try before was not enough.",
		}, with("reason")),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_telemetry_series_dropped_total",
			Help: "Series not created because of the limit; their values count under \"_other\".",
		}),
	}
	t.present = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_telemetry_series",
		Help: "Series counted against the limit.",
	}, func() float64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		return float64(t.used)
	})
	return t
}

func (t *seriesTable) collectors() []prometheus.Collector {
	return []prometheus.Collector{t.duration, t.requests, t.tries, t.retries, t.refused, t.present}
}

// admit returns the labels under which a new metric of s is to count. The caller holds the lock.
func (t *seriesTable) admit(s *Series, cost int) Labels {
	if s.dropped {
		return overflow
	}
	if t.used+cost > t.limit {
		t.refused.Add(float64(cost))
		return overflow
	}
	t.used += cost
	s.used += cost
	return s.labels
}

// take counts one more series of those that have no Series, and tells whether the limit admits it.
func (t *seriesTable) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used >= t.limit {
		t.refused.Inc()
		return false
	}
	t.used++
	return true
}

// giveBack is called for a series that take has counted.
func (t *seriesTable) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used--
}

// Series returns the handle of labels: the same one until they are dropped.
func (m *Metrics) Series(labels Labels) *Series {
	t := m.series
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byLabels[labels]
	if s == nil {
		s = &Series{table: t, labels: labels}
		t.byLabels[labels] = s
	}
	return s
}

// Drop ends the series of labels that no configuration uses any more. Requests that still hold the
// handle may use it.
func (m *Metrics) Drop(labels Labels) {
	t := m.series
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byLabels[labels]
	if s == nil {
		return
	}
	delete(t.byLabels, labels)
	s.dropped = true
	t.used -= s.used
	t.duration.DeleteLabelValues(labels.values()...)
	t.tries.DeleteLabelValues(labels.values()...)
	for _, class := range classNames {
		t.requests.DeleteLabelValues(labels.values(class)...)
	}
	for _, reason := range retryReasons {
		t.retries.DeleteLabelValues(labels.values(reason)...)
	}
}

// Request counts one request at the end of its answer. A status of 0 says that there was nobody left
// to answer.
func (s *Series) Request(status int, took time.Duration) {
	class := statusClass(status)
	get(s, &s.requests[class], 1, func(l Labels) prometheus.Counter {
		return s.table.requests.WithLabelValues(l.values(classNames[class])...)
	}).Inc()
	// A histogram's series are its buckets, the one without bound, the sum and the count.
	get(s, &s.duration, len(durationBuckets)+3, func(l Labels) prometheus.Observer {
		return s.table.duration.WithLabelValues(l.values()...)
	}).Observe(took.Seconds())
}

// Try counts one try to have a request answered.
func (s *Series) Try() {
	get(s, &s.tries, 1, func(l Labels) prometheus.Counter {
		return s.table.tries.WithLabelValues(l.values()...)
	}).Inc()
}

// Retry counts a repeated try. reason is one of the Retry constants.
func (s *Series) Retry(reason string) {
	i := slices.Index(retryReasons[:], reason)
	if i < 0 {
		panic("telemetry: unknown retry reason " + reason)
	}
	get(s, &s.retries[i], 1, func(l Labels) prometheus.Counter {
		return s.table.retries.WithLabelValues(l.values(reason)...)
	}).Inc()
}

var classNames = [...]string{"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"}

// statusClass maps a status to the index of its class; anything that is no status to the first.
func statusClass(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status / 100
}
