package trace

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/spool"
	"weft.dev/weft/proxy/wire"
)

const (
	// room is how many bytes of spans wait at most. It is below what collectors take in one message (4 MiB).
	room = 1 << 20
	// linger is how long spans wait for others to go with.
	linger = time.Second
	// sendTimeout bounds one try to hand spans over, maxTries how many there are.
	sendTimeout = 10 * time.Second
	maxTries    = 4
	firstWait   = time.Second
)

// Options configure an Exporter. Log and Resource may be nil, the others have to be set.
type Options struct {
	// Resource says what the spans are of, Version of which build.
	Resource []attribute.Attribute
	Version  string
	Log      *slog.Logger
	// Dial opens connections. Default: that of package net.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Stats are what has become of spans.
type Stats struct {
	// Exported were taken by the collector.
	Exported uint64
	// Overflowed found no room. Failed could not be handed over, or the collector did not want them.
	Overflowed, Failed uint64
}

// Exporter hands spans to a collector. Until it is told to which, End must not be called. It is safe for concurrent
// use, except that Use is called serially.
type Exporter struct {
	options          Options
	spool            *spool.Spool
	exported, failed atomic.Uint64
	target           atomic.Pointer[target]
	running          sync.WaitGroup
	started          bool
	base             context.Context
	cancel           context.CancelFunc
}

// NewExporter returns one that has no collector, which costs nothing.
func NewExporter(o Options) *Exporter {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: sendTimeout}).DialContext
	}
	e := &Exporter{options: o, spool: spool.New(room)}
	e.base, e.cancel = context.WithCancel(context.Background())
	return e
}

// Use names the collector from now on; nil means none.
func (e *Exporter) Use(c *wire.Collector) {
	before := e.target.Load()
	if before == nil && c == nil || before != nil && c != nil && before.collector == *c {
		return
	}
	var next *target
	if c != nil {
		next = newTarget(*c, e.options.Dial)
	}
	e.target.Store(next)
	if before != nil {
		before.transport.CloseIdleConnections()
	}
	if next != nil && !e.started {
		e.started = true
		e.running.Go(e.run)
	}
}

// End takes a span that has ended. It does not wait, and keeps nothing of it.
func (e *Exporter) End(s *Span) {
	buf, _ := buffers.Get().(*[]byte)
	*buf = s.append((*buf)[:0])
	e.spool.Add(*buf)
	buffers.Put(buf)
}

// buffers hold a span each while it is being encoded.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 1024)) }}

// Stats tell what has become of spans so far.
func (e *Exporter) Stats() Stats {
	return Stats{Exported: e.exported.Load(), Overflowed: e.spool.Dropped(), Failed: e.failed.Load()}
}

// Close hands over what is left, once, and ends the exporter, at the end of ctx at the latest.
func (e *Exporter) Close(ctx context.Context) {
	e.cancel()
	e.running.Wait()
	if spans, n := e.spool.Take(); n > 0 {
		t := e.target.Load()
		err := errNoCollector
		if t != nil {
			err = t.send(ctx, e.request(spans))
		}
		e.settle(n, err)
	}
	if t := e.target.Load(); t != nil {
		t.transport.CloseIdleConnections()
	}
}

var errNoCollector = errors.New("there is no collector any more")

func (e *Exporter) request(spans []byte) []byte {
	return request(e.options.Resource, e.options.Version, spans)
}

// run hands spans over until the exporter is closed.
func (e *Exporter) run() {
	troubled := false
	for {
		spans, n := e.spool.Next(e.base, linger)
		if n == 0 {
			return
		}
		err := e.deliver(e.request(spans))
		e.settle(n, err)
		switch {
		case err != nil && !troubled:
			e.options.Log.Warn("Cannot hand spans over to the collector of traces; they are dropped until it takes them", "error", err)
		case err == nil && troubled:
			e.options.Log.Info("The collector of traces takes spans again")
		}
		troubled = err != nil
	}
}

// settle counts what has become of n spans.
func (e *Exporter) settle(n int, err error) {
	refused := uint64(n)
	if partly, ok := errors.AsType[refusedError](err); ok {
		refused = min(refused, uint64(partly.spans))
	} else if err == nil {
		refused = 0
	}
	e.failed.Add(refused)
	e.exported.Add(uint64(n) - refused)
}

// deliver sends a request, again where the protocol says that it may be, to the collector that is named by then.
func (e *Exporter) deliver(request []byte) error {
	wait := firstWait
	for try := 1; ; try++ {
		t := e.target.Load()
		if t == nil {
			return errNoCollector
		}
		err := t.send(e.base, request)
		if again, ok := errors.AsType[transientError](err); !ok || try == maxTries {
			return err
		} else if again.after > wait {
			wait = min(again.after, sendTimeout)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-e.base.Done():
			timer.Stop()
			return err
		}
		wait *= 2
	}
}

// target is a collector and the connections to it.
type target struct {
	collector wire.Collector
	url       string
	transport *http.Transport
}

// exportMethod is what collectors serve over gRPC (opentelemetry/proto/collector/trace/v1).
const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

func newTarget(c wire.Collector, dial func(ctx context.Context, network, address string) (net.Conn, error)) *target {
	t := &target{collector: c, url: c.Endpoint, transport: &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		Protocols: new(http.Protocols), IdleConnTimeout: 90 * time.Second, MaxIdleConns: 1,
		ResponseHeaderTimeout: sendTimeout, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 64 << 10},
	}}
	if c.Protocol == wire.CollectorGRPC {
		t.url = strings.TrimSuffix(c.Endpoint, "/") + exportMethod
		t.transport.Protocols.SetHTTP2(true)
		t.transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		t.transport.Protocols.SetHTTP1(true)
	}
	return t
}

// transientError is one that may pass, after a time if the collector has named one.
type transientError struct {
	error
	after time.Duration
}

// Unwrap returns what has happened.
func (e transientError) Unwrap() error { return e.error }

// refusedError tells that the collector has not wanted some spans.
type refusedError struct {
	spans int64
	why   string
}

// Error implements error.
func (e refusedError) Error() string {
	return fmt.Sprintf("the collector has not taken %d spans: %s", e.spans, e.why)
}
