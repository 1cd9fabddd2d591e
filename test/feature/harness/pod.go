package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Echo is what a pod answers with: who it is and what reached it.
type Echo struct {
	Pod string `json:"pod"`
	// Protocol is "HTTP/1.1", "HTTP/2.0" or "gRPC".
	Protocol string `json:"protocol"`
	Method   string `json:"method"`
	Host     string `json:"host"`
	// Target is path and query as they were on the wire; of gRPC, the full method name.
	Target string      `json:"target"`
	Header http.Header `json:"header"`
	Body   string      `json:"body,omitempty"`
}

// replyPrefix marks fields of a request that the answer is to carry, without the prefix.
const replyPrefix = "Reply-"

// maxEchoBody bounds how much of a body is echoed.
const maxEchoBody = 1 << 20

// Pod is a built-in application. It serves each port that an EndpointSlice gives it: HTTP/1.1, HTTP/2
// with prior knowledge, gRPC with any method and WebSocket, or opaque bytes on ports whose name begins
// with "tcp". HTTP and gRPC answer with an Echo, a WebSocket and a TCP connection greet with the pod's
// name and echo the bytes that follow.
type Pod struct {
	// Name is that of the EndpointSlice's targetRef.
	Name string

	grpc *grpc.Server

	mu       sync.Mutex
	requests int
	last     Echo
	changed  chan struct{}
	handler  http.Handler
	ports    map[netip.AddrPort]*port
	// connections are those of TCP ports.
	connections map[net.Conn]struct{}
	serving     sync.WaitGroup
}

// port is one port that a pod serves.
type port struct {
	listener net.Listener
	// server is nil for opaque bytes.
	server *http.Server
}

func newPod(name string) *Pod {
	p := &Pod{
		Name: name, changed: make(chan struct{}), ports: map[netip.AddrPort]*port{}, connections: map[net.Conn]struct{}{},
	}
	p.grpc = grpc.NewServer(grpc.UnknownServiceHandler(p.serveGRPC))
	return p
}

// Requests returns how many requests and TCP connections have reached the pod.
func (p *Pod) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// Last returns the request that reached the pod last.
func (p *Pod) Last() Echo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Await returns as soon as n requests have reached the pod, counted from its start.
func (p *Pod) Await(ctx context.Context, n int) error {
	for {
		p.mu.Lock()
		changed, requests := p.changed, p.requests
		p.mu.Unlock()
		if requests >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d requests have reached %s: %w", requests, n, p.Name, context.Cause(ctx))
		}
	}
}

// Handle makes a handler answer HTTP requests from now on; nil brings back the echo. Requests are
// counted before it is called.
func (p *Pod) Handle(h http.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = h
}

// count notes a request.
func (p *Pod) count(e Echo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	p.last = e
	close(p.changed)
	p.changed = make(chan struct{})
}

// listen serves one more address of the pod and returns what listens there.
func (p *Pod) listen(address netip.AddrPort, opaque bool) (string, error) {
	l, err := listen()
	if err != nil {
		return "", err
	}
	served := &port{listener: l}
	serve := func() { p.serveTCP(l) }
	if !opaque {
		var protocols http.Protocols
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		served.server = &http.Server{Handler: p, Protocols: &protocols, ReadHeaderTimeout: time.Minute}
		// It returns when the pod stops.
		serve = func() { _ = served.server.Serve(l) }
	}
	p.mu.Lock()
	p.ports[address] = served
	p.mu.Unlock()
	p.serving.Go(serve)
	return l.Addr().String(), nil
}

// stop ends the pod at once, as a crash would.
func (p *Pod) stop() error {
	p.mu.Lock()
	var errs []error
	for _, served := range p.ports {
		if served.server != nil {
			errs = append(errs, served.server.Close())
		} else {
			errs = append(errs, served.listener.Close())
		}
	}
	clear(p.ports)
	for c := range p.connections {
		// It may have been closed by its own goroutine.
		_ = c.Close()
	}
	p.mu.Unlock()
	p.serving.Wait()
	p.grpc.Stop()
	return errors.Join(errs...)
}

// ServeHTTP implements http.Handler.
func (p *Pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		p.grpc.ServeHTTP(w, r)
		return
	}
	p.mu.Lock()
	handler := p.handler
	p.mu.Unlock()
	e := Echo{
		Pod: p.Name, Protocol: r.Proto, Method: r.Method, Host: r.Host, Target: r.RequestURI, Header: r.Header,
	}
	if handler == nil && !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxEchoBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		e.Body = string(body)
	}
	p.count(e)
	switch {
	case handler != nil:
		handler.ServeHTTP(w, r)
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		websocket.Server{Handler: p.serveWebSocket}.ServeHTTP(w, r)
	default:
		for name, values := range r.Header {
			if name, ok := strings.CutPrefix(name, replyPrefix); ok {
				w.Header()[name] = values
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Pod", p.Name)
		// The client may have gone, and there is nobody else to tell.
		_ = json.NewEncoder(w).Encode(e)
	}
}

func (p *Pod) serveWebSocket(c *websocket.Conn) { p.echoBytes(c) }

// serveGRPC answers any method of any service, one message for each that comes.
func (p *Pod) serveGRPC(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	md, _ := metadata.FromIncomingContext(stream.Context())
	header := http.Header{}
	for name, values := range md {
		for _, value := range values {
			header.Add(name, value)
		}
	}
	e := Echo{
		Pod: p.Name, Protocol: "gRPC", Method: http.MethodPost, Host: header.Get(":authority"), Target: method, Header: header,
	}
	p.count(e)
	answer, err := json.Marshal(e)
	if err != nil {
		return err
	}
	for {
		err := stream.RecvMsg(&emptypb.Empty{})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stream.SendMsg(wrapperspb.String(string(answer)))
		}
		if err != nil {
			return err
		}
	}
}

// serveTCP accepts connections until the listener is closed.
func (p *Pod) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.connections[c] = struct{}{}
		p.mu.Unlock()
		p.count(Echo{Pod: p.Name, Protocol: "TCP"})
		p.serving.Go(func() {
			p.echoBytes(c)
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.connections, c)
			// Its other end may have closed it already.
			_ = c.Close()
		})
	}
}

// echoBytes greets with the pod's name and a line end, then sends back what comes until that ends.
func (p *Pod) echoBytes(c io.ReadWriter) {
	if _, err := io.WriteString(c, p.Name+"\n"); err != nil {
		return
	}
	// Whichever side fails first, the echo is over.
	_, _ = io.Copy(c, c)
}
