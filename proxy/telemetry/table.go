package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/proxy/attribute"
)

// idleAfter is how long a series may stay unchanged before it is forgotten. It is longer than anybody scrapes, and
// than the windows that alerts look at.
const idleAfter = 30 * time.Minute

// sweepEvery bounds how often room is looked for when there is none.
const sweepEvery = time.Minute

// seriesTable creates series until its limit is reached; from then on everything new is counted in
// one set of series labelled "_other".
type seriesTable struct {
	refused, expired prometheus.Counter
	present          prometheus.GaugeFunc

	limit int
	mu    sync.Mutex
	used  int
	swept time.Time
	// byLabels holds one Series per Labels, so that a rebuilt configuration goes on counting where
	// its predecessor stopped. rest is what the limit did not admit.
	byLabels map[Labels]*Series
	rest     *Series
	callers  map[string]*Caller
	// common are the labels that many series have, by name and value.
	common map[[2]string]*dto.LabelPair
	// onBackend is called when a backend is used for the first time, or in a way that is new.
	onBackend func(backend string)
}

func newSeriesTable(limit int) *seriesTable {
	t := &seriesTable{
		limit:    limit,
		byLabels: map[Labels]*Series{},
		callers:  map[string]*Caller{},
		common:   map[[2]string]*dto.LabelPair{},
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_telemetry_series_dropped_total",
			Help: "Series not created because of the limit; their values count under \"_other\".",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_telemetry_series_expired_total",
			Help: "Series that were forgotten because they had not changed for half an hour.",
		}),
	}
	t.rest = &Series{table: t, labels: Labels{Listener: other, Destination: other, Route: other, Rule: other, Backend: other}}
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

// Describe implements prometheus.Collector.
func (t *seriesTable) Describe(all chan<- *prometheus.Desc) {
	for _, d := range descs {
		all <- d
	}
}

// Collect implements prometheus.Collector. It forgets what is idle.
func (t *seriesTable) Collect(metrics chan<- prometheus.Metric) {
	t.mu.Lock()
	t.sweep(time.Now())
	var cells []*cell
	for _, s := range t.byLabels {
		cells = s.appendTo(cells)
	}
	cells = t.rest.appendTo(cells)
	t.mu.Unlock()
	for _, c := range cells {
		metrics <- c
	}
}

func (s *Series) appendTo(cells []*cell) []*cell {
	if own := s.cells.Load(); own != nil {
		cells = slices.AppendSeq(cells, maps.Values(*own))
	}
	return cells
}

// sweep forgets cells that have not changed for long. The lock is held. What is counted in one at that moment is
// lost, which after such a time says nothing.
func (t *seriesTable) sweep(now time.Time) {
	t.swept = now
	for _, s := range t.byLabels {
		own := s.cells.Load()
		if own == nil {
			continue
		}
		var left map[cellKey]*cell
		for key, c := range *own {
			n := c.count()
			if n != c.seen || key.family == tcpActive && n != 0 {
				c.seen, c.seenAt = n, now
			}
			if now.Sub(c.seenAt) <= idleAfter {
				continue
			}
			if left == nil {
				left = maps.Clone(*own)
			}
			delete(left, key)
			s.used -= key.family.cost()
			t.used -= key.family.cost()
			t.expired.Add(float64(key.family.cost()))
		}
		if left != nil {
			s.cells.Store(&left)
		}
	}
}

// add makes the cell of a key, or finds the one where it is counted instead.
func (t *seriesTable) add(s *Series, key cellKey) *cell {
	c := t.addLocked(s, key)
	if s.labels.Backend != "" && key.family != httpServer && key.family != rpcServer {
		t.onBackend(s.labels.Backend)
	}
	return c
}

func (t *seriesTable) addLocked(s *Series, key cellKey) *cell {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cells := s.cells.Load(); cells != nil && (*cells)[key] != nil {
		return (*cells)[key]
	}
	cost := key.family.cost()
	now := time.Now()
	if !s.dropped && t.used+cost > t.limit && now.Sub(t.swept) > sweepEvery {
		t.sweep(now)
	}
	switch {
	case s.dropped:
		return t.restOf(key, now)
	case t.used+cost > t.limit:
		t.refused.Add(float64(cost))
		return t.restOf(key, now)
	}
	t.used += cost
	s.used += cost
	return t.put(s, key, now)
}

// restOf returns the cell of what has none of its own. Callers, statuses and reasons are not told apart there.
func (t *seriesTable) restOf(key cellKey, now time.Time) *cell {
	key = cellKey{family: key.family}
	if cells := t.rest.cells.Load(); cells != nil && (*cells)[key] != nil {
		return (*cells)[key]
	}
	return t.put(t.rest, key, now)
}

// put adds a cell. The lock is held.
func (t *seriesTable) put(s *Series, key cellKey, now time.Time) *cell {
	c := &cell{family: key.family, pairs: t.pairs(s, key), seenAt: now}
	if definitions[key.family].histogram {
		c.histogram = &histogram{}
	}
	cells := map[cellKey]*cell{}
	if own := s.cells.Load(); own != nil {
		cells = maps.Clone(*own)
	}
	cells[key] = c
	s.cells.Store(&cells)
	return c
}

// pairs returns the labels of a cell, sorted as Prometheus wants them. Empty ones are left out, which means the same.
func (t *seriesTable) pairs(s *Series, key cellKey) []*dto.LabelPair {
	if s.pairs == nil {
		s.pairs = t.labelPairs(s.labels)
	}
	pairs := slices.Clone(s.pairs)
	with := func(name, value string) {
		if value != "" {
			pairs = append(pairs, t.pair(name, value))
		}
	}
	if key.caller != nil {
		pairs = append(pairs, key.caller.pairs...)
	}
	if s == t.rest {
		slices.SortFunc(pairs, byName)
		return pairs
	}
	switch key.status {
	case 0:
	case oddStatus:
		with(labelStatus, "_OTHER")
	default:
		with(labelStatus, strconv.Itoa(int(key.status)))
	}
	switch key.family {
	case retries:
		with(labelRetryReason, key.why)
	case tcpConnections, tcpActive, tcpSent, tcpReceived:
		with(labelProtocol, key.what)
		with(labelError, key.why)
	default:
		with(labelRPCStatus, key.what)
		with(labelError, key.why)
	}
	if key.family != retries {
		with(labelTLS, attribute.Protection(key.secure))
	}
	slices.SortFunc(pairs, byName)
	return pairs
}

func byName(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) }

// labelPairs are Labels with the names and parts that spans have as well.
func (t *seriesTable) labelPairs(l Labels) []*dto.LabelPair {
	var pairs []*dto.LabelPair
	with := func(name, value string) {
		if value != "" {
			pairs = append(pairs, t.pair(name, value))
		}
	}
	with(labelListener, l.Listener)
	for _, a := range attribute.AppendRoute(attribute.AppendDestination(nil, l.Destination), l.Route) {
		with(attribute.Label(a.Key), a.Value())
	}
	with(labelRule, l.Rule)
	with(labelBackend, l.Backend)
	return pairs
}

// pair returns a label, the same one for many series. The lock is held.
func (t *seriesTable) pair(name, value string) *dto.LabelPair {
	const most = 1024
	p := t.common[[2]string{name, value}]
	if p == nil {
		p = &dto.LabelPair{Name: proto.String(name), Value: proto.String(value)}
		if len(t.common) < most {
			t.common[[2]string{name, value}] = p
		}
	}
	return p
}

// take counts more series of those that have no Series, and tells whether the limit admits them.
func (t *seriesTable) take(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used+n > t.limit {
		t.refused.Add(float64(n))
		return false
	}
	t.used += n
	return true
}

// giveBack is called for series that take has counted.
func (t *seriesTable) giveBack(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used -= n
}
