package feature_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/test/feature/harness"
	"weft.dev/weft/test/output"
)

// tested is what the proxies of the tests speak HTTP/1.1 with.
var tested engine.HTTPEngine

// TestMain runs all tests once for each implementation of HTTP/1.1: a user must not see which it is.
func TestMain(m *testing.M) {
	code := 0
	for _, tested = range []engine.HTTPEngine{engine.HTTPStd, engine.HTTPWeft} {
		fmt.Fprintln(os.Stderr, "=== HTTP engine", tested)
		code = max(code, m.Run())
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what must happen; it is used up by failures alone.
const patience = time.Minute

// leaveGrace is what proxies get that drain under load.
const leaveGrace = time.Second

// start returns a mesh that ends with the test. Its choices are spread evenly.
func start(t *testing.T) *harness.Mesh {
	t.Helper()
	return startWith(t, harness.Options{Random: harness.Even()})
}

func startWith(t *testing.T, options harness.Options) *harness.Mesh {
	t.Helper()
	options.Log = slog.New(slog.NewTextHandler(output.Of(t), &slog.HandlerOptions{Level: slog.LevelInfo}))
	options.HTTP = tested
	m, err := harness.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

// apply puts objects in force; no proxy may reject anything.
func apply(t *testing.T, m *harness.Mesh, objects compile.Snapshot) harness.Applied {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	applied, err := m.Apply(ctx, objects)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range applied.Rejected {
		t.Errorf("proxies reject %s: %s", r.Ref, r.Reason)
	}
	return applied
}

// defaults are the objects of _defaults.yaml.
func defaults(t *testing.T) compile.Snapshot {
	t.Helper()
	s, err := harness.DecodeFiles(os.DirFS("testdata"), "_defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// with returns the defaults and the objects of a text.
func with(t *testing.T, text string) compile.Snapshot {
	t.Helper()
	s := defaults(t)
	if err := harness.DecodeAll([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// answer is what a client sees.
type answer struct {
	status int
	header http.Header
	body   string
	// echo is what the pod says, if one answered.
	echo harness.Echo
	// code and message are gRPC's.
	code, message string
}

// sender returns what sends the request once, on the same connection if that is called again. A request
// without an answer ends the test.
func (r *request) sender(ctx context.Context, t *testing.T, m *harness.Mesh) func() answer {
	t.Helper()
	if r.Protocol == "gRPC" {
		conn, err := m.GRPC(r.From, r.To)
		if err != nil {
			t.Fatal(err)
		}
		return func() answer { return call(ctx, conn, r.Path, r.Headers) }
	}
	client := m.HTTP(r.From)
	if r.Protocol == "h2c" {
		client = m.H2C(r.From)
	}
	return func() answer {
		req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+r.To+r.Path, strings.NewReader(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range r.Headers {
			req.Header.Set(name, value)
		}
		if r.Host != "" {
			req.Host = r.Host
		}
		a, err := do(client, req)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
}

// do sends a request and reads the whole answer.
func do(client *http.Client, req *http.Request) (answer, error) {
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(body)}
	if res.Header.Get("Pod") != "" {
		err = json.Unmarshal(body, &a.echo)
	}
	return a, err
}

// call makes one gRPC call; whatever becomes of it is an answer.
func call(ctx context.Context, conn *grpc.ClientConn, method string, headers map[string]string) answer {
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(headers))
	var header, trailer metadata.MD
	reply := &wrapperspb.StringValue{}
	err := conn.Invoke(ctx, method, &emptypb.Empty{}, reply, grpc.Header(&header), grpc.Trailer(&trailer))
	a := answer{header: http.Header{}, body: reply.GetValue(), code: status.Code(err).String(), message: status.Convert(err).Message()}
	for _, md := range []metadata.MD{header, trailer} {
		for name, values := range md {
			for _, value := range values {
				a.header.Add(name, value)
			}
		}
	}
	if a.body != "" {
		if err := json.Unmarshal([]byte(a.body), &a.echo); err != nil {
			a.message = err.Error()
		}
	}
	return a
}
