// Package tracetest has a collector of traces for tests. It reads what it gets with OpenTelemetry's own types, and can
// be made to refuse it.
package tracetest

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/proxy/wire"
)

// patience is how long spans may take to arrive. It is only used up by a failure.
const patience = 30 * time.Second

// Span is a span as it has arrived. Names of traces and spans are hexadecimal.
type Span struct {
	Trace, ID, Parent, State string
	Name                     string
	// Kind is "SERVER" or "CLIENT".
	Kind       string
	Remote     bool
	Failed     bool
	Start, End time.Time
	Attributes map[string]string
	// Resource is what the span is of.
	Resource map[string]string
}

// Collector takes traces over gRPC and HTTP at one address.
type Collector struct {
	server *httptest.Server

	mu    sync.Mutex
	spans []Span
	// answer, if set, makes the answer instead.
	answer  func(w http.ResponseWriter)
	refused int64
	tries   int
	arrived chan struct{}
	headers []http.Header
}

// Start starts a collector. It ends with the test.
func Start(t testing.TB) *Collector {
	c := &Collector{arrived: make(chan struct{}, 1)}
	c.server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	c.server.Config.Protocols = new(http.Protocols)
	c.server.Config.Protocols.SetHTTP1(true)
	c.server.Config.Protocols.SetUnencryptedHTTP2(true)
	c.server.Start()
	t.Cleanup(c.server.Close)
	return c
}

// Over returns how the collector is reached by a protocol.
func (c *Collector) Over(protocol wire.CollectorProtocol) *wire.Collector {
	endpoint := c.server.URL
	if protocol == wire.CollectorHTTP {
		endpoint += "/v1/traces"
	}
	return &wire.Collector{Endpoint: endpoint, Protocol: protocol}
}

// Answer makes the collector answer so; nil means that it takes spans.
func (c *Collector) Answer(answer func(w http.ResponseWriter)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// Refuse makes the collector say that it has not wanted so many spans of each batch.
func (c *Collector) Refuse(spans int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = spans
}

// Tries is how many requests have come.
func (c *Collector) Tries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries
}

// Headers are those of the requests.
func (c *Collector) Headers() []http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers
}

// Await returns all spans as soon as there are so many.
func (c *Collector) Await(t testing.TB, spans int) []Span {
	t.Helper()
	for deadline := time.After(patience); ; {
		c.mu.Lock()
		got := append([]Span(nil), c.spans...)
		c.mu.Unlock()
		if len(got) >= spans {
			return got
		}
		select {
		case <-c.arrived:
		case <-deadline:
			t.Fatalf("%d spans have arrived, not %d: %+v", len(got), spans, got)
		}
	}
}

func (c *Collector) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	c.headers = append(c.headers, r.Header)
	grpc := r.URL.Path == "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	if err != nil || r.Method != http.MethodPost || !grpc && r.URL.Path != "/v1/traces" || grpc != (r.ProtoMajor == 2) {
		http.Error(w, fmt.Sprint(r.Method, r.URL, r.Proto, err), http.StatusNotFound)
		return
	}
	if c.answer != nil {
		c.answer(w)
		return
	}
	if grpc {
		if len(body) < 5 || body[0] != 0 {
			http.Error(w, "no frame", http.StatusBadRequest)
			return
		}
		body = body[5:]
	}
	var request collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.take(&request)
	response := &collectorpb.ExportTraceServiceResponse{}
	if c.refused > 0 {
		response.PartialSuccess = &collectorpb.ExportTracePartialSuccess{RejectedSpans: c.refused, ErrorMessage: "not wanted"}
	}
	answer, err := proto.Marshal(response)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if grpc {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		answer = append([]byte{0, 0, 0, 0, byte(len(answer))}, answer...)
	}
	_, _ = w.Write(answer)
	if grpc {
		w.Header().Set("Grpc-Status", "0")
	}
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

func (c *Collector) take(request *collectorpb.ExportTraceServiceRequest) {
	for _, resource := range request.GetResourceSpans() {
		of := attributes(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			of["scope"] = scope.GetScope().GetName()
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, Span{
					Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					State: s.GetTraceState(), Name: s.GetName(), Kind: s.GetKind().String()[len("SPAN_KIND_"):],
					Remote: s.GetFlags()&0x300 == 0x300, Failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR,
					Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
					Attributes: attributes(s.GetAttributes()), Resource: of,
				})
			}
		}
	}
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	out := make(map[string]string, len(list))
	for _, a := range list {
		if n, ok := a.GetValue().GetValue().(*commonpb.AnyValue_IntValue); ok {
			out[a.GetKey()] = strconv.FormatInt(n.IntValue, 10)
		} else {
			out[a.GetKey()] = a.GetValue().GetStringValue()
		}
	}
	return out
}
