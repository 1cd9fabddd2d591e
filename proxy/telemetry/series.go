package telemetry

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weft.dev/weft/proxy/trace"
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
	Trace trace.ID
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
