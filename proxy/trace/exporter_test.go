package trace_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/trace"
	"weft.dev/weft/proxy/trace/tracetest"
	"weft.dev/weft/proxy/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var protocols = []wire.CollectorProtocol{wire.CollectorGRPC, wire.CollectorHTTP}

func newExporter(t *testing.T) *trace.Exporter {
	t.Helper()
	e := trace.NewExporter(trace.Options{
		Resource: []attribute.Attribute{attribute.String(attribute.ServiceName, "weft-proxy")}, Version: "v1",
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		e.Close(ctx)
	})
	return e
}

// until waits for a condition. The time is only used up by a failure.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatal("it has not come about")
		}
	}
}

func TestSpansArriveAsTheyAre(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(string(protocol), func(t *testing.T) {
			collector := tracetest.Start(t)
			e := newExporter(t)
			e.Use(collector.Over(protocol))
			start := time.Unix(1_700_000_000, 123)
			e.End(&trace.Span{
				Trace: trace.ID{1}, Span: trace.SpanID{2}, Parent: trace.SpanID{3}, Remote: true, State: "a=1", Kind: trace.Server,
				Name: "GET shop/web:80", Start: start, End: start.Add(time.Second), Failed: true,
				Attributes: []attribute.Attribute{
					attribute.String(attribute.Path, "/é\xff"), attribute.String(attribute.Reason, ""), attribute.Int(attribute.Status, 503), attribute.Int("negative", -1),
					attribute.String("long", strings.Repeat("x", 1000)),
				},
			})
			e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{4}, Kind: trace.Client, Name: "GET", Start: start, End: start, State: strings.Repeat("x", 513)})
			resource := map[string]string{"service.name": "weft-proxy", "scope": "weft.dev/weft/proxy"}
			want := []tracetest.Span{{
				Trace: "01000000000000000000000000000000", ID: "0200000000000000", Parent: "0300000000000000", State: "a=1", Name: "GET shop/web:80",
				Kind: "SERVER", Remote: true, Failed: true, Start: start, End: start.Add(time.Second), Resource: resource,
				Attributes: map[string]string{
					attribute.Path: "/é\uFFFD", attribute.Reason: "", attribute.Status: "503", "negative": "-1", "long": strings.Repeat("x", 1000),
				},
			}, {
				Trace: "01000000000000000000000000000000", ID: "0400000000000000", Name: "GET", Kind: "CLIENT", Start: start, End: start,
				Attributes: map[string]string{}, Resource: resource,
			}}
			if diff := cmp.Diff(want, collector.Await(t, 2)); diff != "" {
				t.Errorf("spans (-want +got):\n%s", diff)
			}
			until(t, func() bool { return e.Stats() == trace.Stats{Exported: 2} })
		})
	}
}

// A collector that is in trouble gets spans again, one that does not want them does not.
func TestWhatIsSentAgain(t *testing.T) {
	grpcStatus := func(code string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", code)
			w.Header().Set("Grpc-Message", "no%20room")
		}
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	tests := map[string]struct {
		protocol wire.CollectorProtocol
		answer   func(http.ResponseWriter)
		again    bool
	}{
		"HTTP, too much":             {wire.CollectorHTTP, status(429), true},
		"HTTP, unavailable":          {wire.CollectorHTTP, status(503), true},
		"HTTP, broken":               {wire.CollectorHTTP, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, true},
		"HTTP, bad request":          {wire.CollectorHTTP, status(400), false},
		"HTTP, no such path":         {wire.CollectorHTTP, status(404), false},
		"HTTP, redirect":             {wire.CollectorHTTP, func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(307) }, false},
		"gRPC, UNAVAILABLE":          {wire.CollectorGRPC, grpcStatus("14"), true},
		"gRPC, not HTTP's 200":       {wire.CollectorGRPC, status(502), true},
		"gRPC, INVALID_ARGUMENT":     {wire.CollectorGRPC, grpcStatus("3"), false},
		"gRPC, UNIMPLEMENTED":        {wire.CollectorGRPC, grpcStatus("12"), false},
		"gRPC, no status whatsoever": {wire.CollectorGRPC, status(200), false},
		"gRPC, RESOURCE_EXHAUSTED":   {wire.CollectorGRPC, grpcStatus("8"), false},
		"gRPC, broken before a head": {wire.CollectorGRPC, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			collector := tracetest.Start(t)
			collector.Answer(tc.answer)
			e := newExporter(t)
			e.Use(collector.Over(tc.protocol))
			e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{1}})
			until(t, func() bool { return collector.Tries() > 0 })
			collector.Answer(nil)
			if tc.again {
				collector.Await(t, 1)
				until(t, func() bool { return e.Stats() == trace.Stats{Exported: 1} })
				return
			}
			until(t, func() bool { return e.Stats() == trace.Stats{Failed: 1} })
			e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{2}})
			if got := collector.Await(t, 1); got[0].ID != "0200000000000000" {
				t.Errorf("got %+v, which was refused", got)
			}
		})
	}
}

func TestSpansThatAreNotWantedAreCounted(t *testing.T) {
	for _, protocol := range protocols {
		collector := tracetest.Start(t)
		collector.Refuse(1)
		e := newExporter(t)
		e.Use(collector.Over(protocol))
		for i := range 3 {
			e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{byte(i + 1)}})
		}
		collector.Await(t, 3)
		until(t, func() bool { return e.Stats().Failed > 0 && e.Stats().Exported+e.Stats().Failed == 3 })
	}
}

// A collector that does not answer delays nobody: what finds no room is dropped.
func TestACollectorThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose connections nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	e := newExporter(t)
	e.Use(&wire.Collector{Endpoint: "http://" + l.Addr().String(), Protocol: wire.CollectorGRPC})
	span := &trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{1}, Name: strings.Repeat("x", 1000)}
	const spans = 5000
	for range spans {
		e.End(span)
	}
	if got := e.Stats(); got.Overflowed < spans-2*1100 || got.Exported > 0 {
		t.Errorf("of %d spans, which have five times the room: %+v", spans, got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	e.Close(ctx)
	if got := e.Stats(); got.Overflowed+got.Failed != spans {
		t.Errorf("%+v of %d spans", got, spans)
	}
}

func TestTheCollectorCanChange(t *testing.T) {
	first, second := tracetest.Start(t), tracetest.Start(t)
	e := newExporter(t)
	for i, step := range []struct {
		collector *tracetest.Collector
		protocol  wire.CollectorProtocol
		total     int
	}{{first, wire.CollectorGRPC, 1}, {second, wire.CollectorHTTP, 1}, {first, wire.CollectorHTTP, 2}} {
		e.Use(step.collector.Over(step.protocol))
		e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{byte(i + 1)}})
		step.collector.Await(t, step.total)
	}
	until(t, func() bool { return e.Stats() == trace.Stats{Exported: 3} })
	e.Use(nil)
	e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{9}}) // of a request that began before
	e.Close(t.Context())
	if got := e.Stats(); got != (trace.Stats{Exported: 3, Failed: 1}) {
		t.Errorf("%+v", got)
	}
}

// What is left at the end is handed over.
func TestCloseHandsOverWhatIsLeft(t *testing.T) {
	collector := tracetest.Start(t)
	e := newExporter(t)
	e.Use(collector.Over(wire.CollectorGRPC))
	e.End(&trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{1}})
	e.Close(t.Context())
	if got := e.Stats(); got != (trace.Stats{Exported: 1}) {
		t.Errorf("%+v", got)
	}
}

func BenchmarkEnd(b *testing.B) {
	e := trace.NewExporter(trace.Options{})
	defer e.Close(context.Background())
	span := &trace.Span{Trace: trace.ID{1}, Span: trace.SpanID{1}, Name: "GET shop/web:80", Attributes: []attribute.Attribute{
		attribute.String(attribute.Method, "GET"), attribute.String(attribute.Path, "/a/b"), attribute.Int(attribute.Status, 200),
		attribute.String(attribute.DestinationService, "web"), attribute.String(attribute.SourceID, "spiffe://cluster.local/ns/shop/sa/client"),
	}}
	b.ReportAllocs()
	for b.Loop() {
		e.End(span)
	}
}
