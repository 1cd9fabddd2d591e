package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The ports of the service. Whatever arrives at portCount is not counted.
const (
	portHTTP  = 8080
	portCount = 8081
	portGRPC  = 9000
)

// drainTimeout is how long requests may take that are running when the pod is ended.
const drainTimeout = 10 * time.Second

// method is the one that the gRPC server has: it takes a google.protobuf.Empty and returns the version
// as a google.protobuf.StringValue.
const (
	service = "weft.demo.Web"
	method  = "/" + service + "/Version"
)

// answer is what the service says over HTTP.
type answer struct {
	Version string `json:"version"`
	// Caller is the address that the request came from: the proxy's, when it went through the mesh.
	Caller string `json:"caller"`
}

// counts is what /count answers.
type counts struct {
	HTTP int64 `json:"http"`
	GRPC int64 `json:"grpc"`
}

// web is one version of the service.
type web struct {
	version    string
	http, grpc atomic.Int64
}

func listen(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// serve runs the service until ctx ends and requests have been answered.
func serve(ctx context.Context, version string, listen func(port int) (net.Listener, error)) error {
	w := &web{version: version}
	listeners := map[int]net.Listener{}
	for _, port := range []int{portHTTP, portCount, portGRPC} {
		l, err := listen(port)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		listeners[port] = l
	}
	pages := &http.Server{Handler: w, ReadHeaderTimeout: drainTimeout}
	count := &http.Server{Handler: w.admin(), ReadHeaderTimeout: drainTimeout}
	calls := grpc.NewServer()
	calls.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Version",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return w.call(decode)
			},
		}},
	}, w)
	ended := make(chan error, 3)
	go func() { ended <- pages.Serve(listeners[portHTTP]) }()
	go func() { ended <- count.Serve(listeners[portCount]) }()
	go func() { ended <- calls.Serve(listeners[portGRPC]) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	go func() {
		<-drain.Done()
		calls.Stop()
	}()
	calls.GracefulStop()
	return errors.Join(err, pages.Shutdown(drain), count.Shutdown(drain))
}

// ServeHTTP implements http.Handler.
func (w *web) ServeHTTP(res http.ResponseWriter, req *http.Request) {
	w.http.Add(1)
	caller, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		caller = req.RemoteAddr
	}
	writeJSON(res, answer{Version: w.version, Caller: caller})
}

// call implements the one gRPC method.
func (w *web) call(decode func(any) error) (*wrapperspb.StringValue, error) {
	if err := decode(&emptypb.Empty{}); err != nil {
		return nil, err
	}
	w.grpc.Add(1)
	return wrapperspb.String(w.version), nil
}

func (w *web) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /count", func(res http.ResponseWriter, _ *http.Request) {
		writeJSON(res, counts{HTTP: w.http.Load(), GRPC: w.grpc.Load()})
	})
	return mux
}

func writeJSON(res http.ResponseWriter, v any) {
	res.Header().Set("Content-Type", "application/json")
	// A client that has gone does not need the answer.
	_ = json.NewEncoder(res).Encode(v)
}
