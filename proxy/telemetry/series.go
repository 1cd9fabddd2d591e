package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/proxy/wire"
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

// other stands for all series that the limit did not admit.
const other = "_other"

// Caller is a ServiceAccount that requests come from. A nil Caller is one that is not known.
type Caller struct{ pairs []*dto.LabelPair }

// maxCallers bounds how many ServiceAccounts are told apart.
const maxCallers = 4096

// Retry reasons.
const (
	RetryConnect     = "connect_failure"
	RetryUnprocessed = "not_processed"
	RetryReset       = "reset"
	RetryTimeout     = "timeout"
	RetryStatus      = "status"
)

// ErrorClientGone is the error.type of a request whose client went away before its answer.
const ErrorClientGone = "client_gone"

// Outcome is what a request, or one try to have it answered, has come to.
type Outcome struct {
	Caller *Caller
	// Secure tells that the bytes travelled over mutual TLS between proxies: to this one for a request, from this
	// one for a try.
	Secure bool
	// GRPC tells that it is a gRPC call, RPC the name of its status, such as UNAVAILABLE, if it is known.
	GRPC bool
	RPC  string
	// Status is that of the HTTP response, 0 if there was none.
	Status int
	// Error is what went wrong here, one of a fixed set. If it is empty, what the status says is taken.
	Error string
	Took  time.Duration
	// Trace is an example's, if it was sampled.
	Trace TraceID
}

// Series are the metrics of one Labels. Each comes into being with its first use, so that a configuration with many
// rules costs nothing until they are used. Safe for concurrent use. A nil Series measures nothing.
type Series struct {
	table  *seriesTable
	labels Labels
	// cells are replaced whole, under the table's lock.
	cells atomic.Pointer[map[cellKey]*cell]
	// pairs are the labels of all of them. used and dropped are guarded by the table's lock, as is pairs.
	pairs   []*dto.LabelPair
	used    int
	dropped bool
}

// cellKey tells the metrics of one Series apart.
type cellKey struct {
	caller *Caller
	family family
	secure bool
	status uint16
	// what is the gRPC status or the protocol, why the error or the reason.
	what, why string
}

// cell is one set of labels of a family.
type cell struct {
	family    family
	pairs     []*dto.LabelPair
	value     atomic.Int64
	histogram *histogram
	// seen is what was counted when the cell was last found to have changed, at seenAt. Both are guarded by the
	// table's lock.
	seen   uint64
	seenAt time.Time
}

// Desc implements prometheus.Metric.
func (c *cell) Desc() *prometheus.Desc { return descs[c.family] }

// Write implements prometheus.Metric.
func (c *cell) Write(out *dto.Metric) error {
	out.Label = c.pairs
	switch value := float64(c.value.Load()); {
	case c.histogram != nil:
		out.Histogram = c.histogram.write()
	case definitions[c.family].valueType == prometheus.GaugeValue:
		out.Gauge = &dto.Gauge{Value: &value}
	default:
		out.Counter = &dto.Counter{Value: &value}
	}
	return nil
}

func (c *cell) count() uint64 {
	if c.histogram != nil {
		return c.histogram.count()
	}
	return uint64(c.value.Load())
}

// at returns the cell of a key, made if need be.
func (s *Series) at(key cellKey) *cell {
	if cells := s.cells.Load(); cells != nil {
		if c := (*cells)[key]; c != nil {
			return c
		}
	}
	return s.table.add(s, key)
}

// Request counts one request at the end of its answer.
func (s *Series) Request(o *Outcome) {
	if s == nil {
		return
	}
	key := cellKey{caller: o.Caller, family: httpServer, secure: o.Secure, status: o.status(), why: o.errorType()}
	if o.GRPC {
		key.family, key.status, key.what = rpcServer, 0, o.RPC
	}
	s.at(key).histogram.observe(o.Took, o.Trace)
}

// Try counts one try to have a request answered, at the head of the response. Callers are not told apart.
func (s *Series) Try(o *Outcome) {
	if s == nil {
		return
	}
	key := cellKey{family: httpClient, secure: o.Secure, status: o.status(), why: o.errorType()}
	if o.GRPC {
		key.family = rpcClient
	}
	s.at(key).histogram.observe(o.Took, o.Trace)
}

// Retry counts a repeated try. reason is one of the Retry constants.
func (s *Series) Retry(reason string) {
	if s == nil {
		return
	}
	s.at(cellKey{family: retries, why: reason}).value.Add(1)
}

// Relay counts a connection of opaque bytes as open; the function it returns is called once, at its end, with what
// was sent by the client, what it received, and why the connection was cut, if it was. protocol is of a fixed set.
func (s *Series) Relay(caller *Caller, secure bool, protocol string) (end func(sent, received int64, cut string)) {
	if s == nil {
		return func(int64, int64, string) {}
	}
	key := cellKey{caller: caller, secure: secure, what: protocol}
	in := func(f family) *cell {
		of := key
		of.family = f
		return s.at(of)
	}
	active := in(tcpActive)
	active.value.Add(1)
	return func(sent, received int64, cut string) {
		active.value.Add(-1)
		in(tcpSent).value.Add(sent)
		in(tcpReceived).value.Add(received)
		ended := key
		ended.family, ended.why = tcpConnections, cut
		s.at(ended).value.Add(1)
	}
}

// Refuse counts a connection of opaque bytes that was not served. why and protocol are of fixed sets.
func (s *Series) Refuse(caller *Caller, secure bool, protocol, why string) {
	if s == nil {
		return
	}
	s.at(cellKey{caller: caller, family: tcpConnections, secure: secure, what: protocol, why: why}).value.Add(1)
}

// failedRPC are the statuses of gRPC that are errors to a server by OpenTelemetry's conventions.
var failedRPC = map[string]bool{
	"UNKNOWN": true, "DEADLINE_EXCEEDED": true, "UNIMPLEMENTED": true, "INTERNAL": true, "UNAVAILABLE": true, "DATA_LOSS": true,
}

// errorType is the error.type of an outcome, empty if it is no error.
func (o *Outcome) errorType() string {
	switch {
	case o.Error != "":
		return o.Error
	case failedRPC[o.RPC]:
		return o.RPC
	case o.Status >= 500 && o.Status <= 599:
		return statusNames[o.Status-500]
	}
	return ""
}

// oddStatus stands for all that are no statuses of HTTP.
const oddStatus = 600

func (o *Outcome) status() uint16 {
	if o.Status != 0 && (o.Status < 100 || o.Status > 599) {
		return oddStatus
	}
	return uint16(o.Status)
}

// statusNames are those of the 5xx statuses.
var statusNames = func() (names [100]string) {
	for i := range names {
		names[i] = strconv.Itoa(500 + i)
	}
	return names
}()

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
		with(labelReason, key.why)
	case tcpConnections, tcpActive, tcpSent, tcpReceived:
		with(labelProtocol, key.what)
		with(labelError, key.why)
	default:
		with(labelRPCStatus, key.what)
		with(labelError, key.why)
	}
	if key.family != retries {
		with(labelTLS, tlsName(key.secure))
	}
	slices.SortFunc(pairs, byName)
	return pairs
}

func byName(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) }

func tlsName(secure bool) string {
	if secure {
		return "mtls"
	}
	return "none"
}

// labelPairs splits what Labels name.
func (t *seriesTable) labelPairs(l Labels) []*dto.LabelPair {
	var pairs []*dto.LabelPair
	with := func(name, value string) {
		if value != "" {
			pairs = append(pairs, t.pair(name, value))
		}
	}
	with(labelListener, l.Listener)
	namespace, service, port := splitDestination(l.Destination)
	with(labelDestinationNS, namespace)
	with(labelDestination, service)
	with(labelPort, port)
	if kind, rest, ok := strings.Cut(l.Route, "/"); ok {
		routeNamespace, name, _ := strings.Cut(rest, "/")
		with(labelRouteKind, kind)
		with(labelRouteNamespace, routeNamespace)
		with(labelRoute, name)
	}
	with(labelRule, l.Rule)
	with(labelBackend, l.Backend)
	return pairs
}

// splitDestination returns the parts of a Service port's key. What is none is the name of a Service, like "_other".
func splitDestination(key string) (namespace, service, port string) {
	ns, name, number, ok := wire.ParseServicePortKey(key)
	if !ok {
		return "", key, ""
	}
	return ns, name, strconv.Itoa(int(number))
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

// Series returns the handle of labels: the same one until they are dropped.
func (m *Metrics) Series(labels Labels) *Series {
	if m.off {
		return nil
	}
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

// Caller returns the handle of a ServiceAccount, the same one each time. It is looked up once per connection.
func (m *Metrics) Caller(namespace, account string) *Caller {
	if m.off {
		return nil
	}
	t := m.series
	name := namespace + "/" + account
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.callers[name]; c != nil {
		return c
	}
	if len(t.callers) >= maxCallers {
		namespace, account, name = other, other, other
		if c := t.callers[name]; c != nil {
			return c
		}
	}
	c := &Caller{pairs: []*dto.LabelPair{t.pair(labelSourceNS, namespace), t.pair(labelSourceAccount, account)}}
	t.callers[name] = c
	return c
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
	s.cells.Store(nil)
}
