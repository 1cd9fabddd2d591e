package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// stock is the namespace on the other side of the hop, stockKey its Service.
const stock = "stock"

var stockKey = wire.ServicePortKey(stock, "api", 80)

// hop is the proxy of namespace shop and some of namespace stock, which it reaches over mutual TLS.
type hop struct {
	*proxy
	ca    *identitytest.CA
	peers []*proxy
	// listeners are where the peers accept, by the address that the configuration names.
	listeners map[string]string
}

// newHop returns a proxy that knows Service stock/api and as many peers, which know nothing yet.
func newHop(t *testing.T, peers int, protocol wire.Protocol, edit ...func(*Options)) *hop {
	t.Helper()
	h := &hop{ca: identitytest.NewCA(t, "cluster.local"), listeners: map[string]string{}}
	proxies := &wire.Proxies{}
	for i := range peers {
		peer := newProxy(t, func(o *Options) {
			o.Namespace, o.Source = stock, nil
			// The other side notices that a peer is leaving by its GOAWAY alone.
			o.LeaveGrace = 100 * time.Millisecond
			for _, f := range edit {
				f(o)
			}
		})
		peer.apply(resource("mesh", h.ca.Mesh()), resource("stock/weft-proxy", h.ca.IssueProxy(t, stock)))
		l := listenLoopback(t)
		peer.serve(func() error { return peer.engine.ServeHop(l) })
		address := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		h.listeners[fmt.Sprintf("%s:%d", address, wire.PortHop)] = l.Addr().String()
		proxies.Proxies = append(proxies.Proxies, wire.Proxy{Pod: strconv.Itoa(i), Addresses: []netip.Addr{address}})
		h.peers = append(h.peers, peer)
	}
	h.proxy = newProxy(t, func(o *Options) {
		o.Source = &wire.Workload{Namespace: namespace, ServiceAccount: "client"}
		o.Dial = h.dial
		o.SourceWait = time.Second
	})
	h.apply(
		resource("mesh", h.ca.Mesh()),
		resource("shop/client", h.ca.Issue(t, namespace, "client")),
		resource("shop/weft-proxy", h.ca.IssueProxy(t, namespace)),
		resource(stock, proxies),
		resource(stockKey, &wire.Destination{Namespace: stock, Service: "api", Port: 80, Protocol: protocol}),
		resource(stockKey, &wire.Backend{Namespace: stock, Service: "api", Port: 80, Protocol: protocol, Meshed: true}),
	)
	return h
}

// dial leads to the loopback address that stands for a proxy's.
func (h *hop) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if listener := h.listeners[address]; listener != "" {
		address = listener
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// stocked gives a peer the backend that shop's proxy means.
func stocked(peer *proxy, protocol wire.Protocol, addresses ...string) {
	endpoints := &wire.Endpoints{}
	for _, address := range addresses {
		endpoints.Endpoints = append(endpoints.Endpoints, wire.Endpoint{Address: netip.MustParseAddrPort(address)})
	}
	peer.apply(
		resource(stockKey, &wire.Backend{Namespace: stock, Service: "api", Port: 80, Protocol: protocol, Meshed: true}),
		resource(stockKey, endpoints),
	)
}

// policed gives the Service of the other namespace these endpoints and shop a route to it with a policy,
// and returns where it is called.
func (h *hop) policed(policy *wire.Policy, protocol wire.Protocol, endpoints ...string) string {
	h.t.Helper()
	for _, peer := range h.peers {
		stocked(peer, protocol, endpoints...)
	}
	r := &wire.Route{
		Kind: wire.RouteHTTP, Namespace: namespace, Name: "policed", Destinations: []string{stockKey}, Consumer: true,
		Matches: []wire.Match{{}}, Policy: policy, Backends: []wire.WeightedBackend{{Backend: stockKey, Weight: 1}},
	}
	h.apply(resource(r.Key(), r))
	return h.listen(stockKey)
}

func TestHopCarriesRequests(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	stocked(h.peers[0], wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Weft-Reason", "forged")
		w.Header().Set("X-Response", "1")
		w.WriteHeader(http.StatusTeapot)
		echo(w, r)
		_, _ = io.Copy(w, r.Body)
	}))
	req := request(t, http.MethodPost, h.listen(stockKey), "/a%2Fb?c", strings.NewReader("order"))
	req.Host = "api.stock"
	got := do(t, client(t), req)
	if got.status != http.StatusTeapot || got.header.Get("X-Response") != "1" || got.reason() != "" {
		t.Errorf("answer = %v %v", got, got.header)
	}
	if !strings.HasPrefix(got.body, "POST /a%2Fb?c host=api.stock\n") || !strings.HasSuffix(got.body, "order") {
		t.Errorf("arrived %q", got.body)
	}
	if strings.Contains(got.body, "Weft-") {
		t.Errorf("arrived %q: the application sees what the proxies tell each other", got.body)
	}
	want := map[string]float64{
		"http_response_status_code=418 weft_backend=stock/api:80 weft_destination_namespace=stock weft_destination_port=80 weft_destination_service=api weft_listener=hop " +
			"weft_source_namespace=shop weft_source_service_account=client weft_tls=mtls": 1,
	}
	if diff := cmp.Diff(want, metrics(t, h.peers[0].engine, "http_server_request_duration_seconds")); diff != "" {
		t.Errorf("requests of the peer (-want +got):\n%s", diff)
	}
}

func TestHopCarriesGRPC(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolH2C)
	b := &grpcBackend{name: "api", left: make(chan time.Duration, 1)}
	address, _ := startGRPC(t, b)
	stocked(h.peers[0], wire.ProtocolH2C, address)
	c := grpcClient(t, h.listen(stockKey))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if res, err := c.UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil || res.GetServerId() != "api" {
		t.Errorf("call = %v, %v", res, err)
	}
	if left := <-b.left; left > patience {
		t.Errorf("the backend was left %s of %s", left, patience)
	}
	stream, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	for _, body := range []string{"a", "b"} {
		if err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte(body)}}); err != nil {
			t.Fatalf("send: %v", err)
		}
		if res, err := stream.Recv(); err != nil || string(res.GetPayload().GetBody()) != body {
			t.Fatalf("message = %v, %v, want %q before the next is sent", res, err, body)
		}
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end = %v, want EOF", err)
	}
}

func TestHopCarriesOpaqueBytes(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		h := newHop(t, 1, wire.ProtocolTCP)
		stocked(h.peers[0], wire.ProtocolTCP, shouting(t))
		c, r := raw(t, h.listen(stockKey), "helo\n")
		expect(t, r, "220 ready\nHELO\n")
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "bye\n" {
			t.Errorf("after the client's end came %q, %v, want the rest of the answer", rest, err)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		h := newHop(t, 1, wire.ProtocolHTTP)
		stocked(h.peers[0], wire.ProtocolHTTP, upgrading(t))
		c, r := raw(t, h.listen(stockKey), upgradeRequest+"early ")
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("answer = %v, %v, want 101", res, err)
		}
		defer func() { _ = res.Body.Close() }()
		expect(t, r, "hello early ")
		if _, err := io.WriteString(c, "late"); err != nil {
			t.Fatalf("write: %v", err)
		}
		expect(t, r, "late")
	})
}

// TestHopRepeatsWhatWasNotProcessed covers a Service that one of two proxies has not learned of yet.
func TestHopRepeatsWhatWasNotProcessed(t *testing.T) {
	for _, protocol := range []wire.Protocol{wire.ProtocolHTTP, wire.ProtocolTCP} {
		t.Run(string(protocol), func(t *testing.T) {
			h := newHop(t, 2, protocol)
			if protocol == wire.ProtocolTCP {
				stocked(h.peers[1], protocol, shouting(t))
			} else {
				stocked(h.peers[1], protocol, named(t, "api"))
			}
			address := h.listen(stockKey)
			for range 20 {
				if protocol == wire.ProtocolTCP {
					_, r := raw(t, address, "")
					expect(t, r, "220 ready\n")
					continue
				}
				got := do(t, client(t), request(t, http.MethodPost, address, "/", strings.NewReader("order")))
				if got.body != "api" {
					t.Fatalf("answer = %v, want that of the proxy that knows the Service", got)
				}
			}
		})
	}
}

func TestHopFailuresAreNamed(t *testing.T) {
	tests := map[string]struct {
		prepare    func(*testing.T, *hop)
		wantReason reason.Reason
	}{
		"nobody knows the backend": {func(*testing.T, *hop) {}, reason.NotProcessed},
		"no endpoints":             {func(_ *testing.T, h *hop) { stocked(h.peers[0], wire.ProtocolHTTP) }, reason.NoEndpoints},
		"no certificate for the client": {func(_ *testing.T, h *hop) {
			h.delta(wire.Delta{Removed: []wire.Ref{{Kind: wire.KindCertificate, Key: "shop/client"}}})
		}, reason.Identity},
		"the other side does not trust us": {func(t *testing.T, h *hop) {
			other := identitytest.NewCA(t, "cluster.local")
			h.peers[0].apply(resource("mesh", other.Mesh()), resource("stock/weft-proxy", other.IssueProxy(t, stock)))
			h.apply(resource("mesh", h.ca.Mesh(other)))
		}, reason.Identity},
		"we do not trust the other side": {func(t *testing.T, h *hop) {
			other := identitytest.NewCA(t, "cluster.local")
			h.peers[0].apply(resource("mesh", h.ca.Mesh(other)), resource("stock/weft-proxy", other.IssueProxy(t, stock)))
		}, reason.Identity},
		"no proxies": {func(_ *testing.T, h *hop) { h.apply(resource(stock, &wire.Proxies{})) }, reason.NoEndpoints},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, 1, wire.ProtocolHTTP)
			tc.prepare(t, h)
			got := get(t, h.listen(stockKey), "/")
			if got.status != http.StatusServiceUnavailable || got.reason() != string(tc.wantReason) {
				t.Errorf("answer = %v, want 503 %s", got, tc.wantReason)
			}
		})
	}
}

// TestHopWaitsForTheCertificate: the first request of a pod may come before the first certificate of its
// ServiceAccount.
func TestHopWaitsForTheCertificate(t *testing.T) {
	for _, protocol := range []wire.Protocol{wire.ProtocolHTTP, wire.ProtocolTCP} {
		t.Run(string(protocol), func(t *testing.T) {
			h := newHop(t, 1, protocol)
			if protocol == wire.ProtocolTCP {
				stocked(h.peers[0], protocol, shouting(t))
			} else {
				stocked(h.peers[0], protocol, named(t, "api"))
			}
			h.delta(wire.Delta{Removed: []wire.Ref{{Kind: wire.KindCertificate, Key: "shop/client"}}})
			address, answered := h.listen(stockKey), make(chan error, 1)
			go func() {
				if protocol == wire.ProtocolTCP {
					answered <- try(t, address, "")
					return
				}
				res, err := client(t).Post("http://"+address, "", strings.NewReader("order"))
				if err == nil {
					_ = res.Body.Close()
					if res.StatusCode != http.StatusOK {
						err = fmt.Errorf("status %d", res.StatusCode)
					}
				}
				answered <- err
			}()
			select {
			case err := <-answered:
				t.Fatalf("answered before the certificate came: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			h.apply(resource("shop/client", h.ca.Issue(t, namespace, "client")))
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHopRefusesWhatIsNoProxy(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	stocked(h.peers[0], wire.ProtocolHTTP, server(t, func(http.ResponseWriter, *http.Request) {
		t.Error("a plain request of a stranger reached the backend")
	}))
	for _, listener := range h.listeners {
		_, r := raw(t, listener, lines("GET / HTTP/1.1", "Host: api", "Weft-Backend: "+stockKey))
		if line, err := r.ReadString('\n'); err == nil {
			t.Errorf("a stranger got %q", line)
		}
	}
}

// TestCertificateIsRenewedUnderLoad issues new certificates, then a new authority, while requests run.
func TestCertificateIsRenewedUnderLoad(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	stocked(h.peers[0], wire.ProtocolHTTP, named(t, "api"))
	address := h.listen(stockKey)
	served := make(chan struct{}, 1)
	stop, done := make(chan struct{}), make(chan struct{})
	c := client(t)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got := do(t, c, request(t, http.MethodPost, address, "/", strings.NewReader("order"))); got.body != "api" {
				t.Errorf("answer = %v", got)
			}
			select {
			case served <- struct{}{}:
			default:
			}
		}
	}()
	renew := func(ca *identitytest.CA) {
		h.peers[0].apply(resource("stock/weft-proxy", ca.IssueProxy(t, stock)))
		h.apply(resource("shop/client", ca.Issue(t, namespace, "client")), resource("shop/weft-proxy", ca.IssueProxy(t, namespace)))
		receive(t, served)
	}
	for range 20 {
		renew(h.ca)
	}
	next := identitytest.NewCA(t, "cluster.local")
	for _, p := range []*proxy{h.proxy, h.peers[0]} {
		p.apply(resource("mesh", h.ca.Mesh(next)))
	}
	renew(next)
	for _, p := range []*proxy{h.proxy, h.peers[0]} {
		p.apply(resource("mesh", next.Mesh()))
	}
	renew(next)
	receive(t, served)
	close(stop)
	<-done
}

// TestStalledStreamsLeaveRoomForOthers fills the windows of streams whose bodies nobody reads.
func TestStalledStreamsLeaveRoomForOthers(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	release := make(chan struct{})
	stocked(h.peers[0], wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stall" {
			// Neither the request's body is read nor is there an end of the answer's.
			_ = http.NewResponseController(w).EnableFullDuplex()
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	address := h.listen(stockKey)
	var filled sync.WaitGroup
	for range 20 {
		c, r := raw(t, address, "POST /stall HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000000\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("read answer: %v", err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		filled.Go(func() {
			// Whatever fits between here and the backend is filled when nothing moves any more.
			for block := make([]byte, 64<<10); ; {
				_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				if _, err := c.Write(block); err != nil {
					return
				}
			}
		})
	}
	filled.Wait()
	body := strings.Repeat("0123456789", 100_000)
	if got := do(t, client(t), request(t, http.MethodPost, address, "/", strings.NewReader(body))); got.body != body {
		t.Errorf("answer = %d with %d bytes, want all %d", got.status, len(got.body), len(body))
	}
	close(release)
}
