package engine

import (
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// loopback returns the workload at the address that clients of tests have.
func loopback(namespace string) wire.Resource {
	address := netip.MustParseAddr("127.0.0.1")
	return resource(address.String(), &wire.Workload{
		Address: address, Pod: "client-1", UID: "u", Namespace: namespace, ServiceAccount: "client",
	})
}

// identified returns an engine that looks its clients up.
func identified(t *testing.T, wait time.Duration) *proxy {
	p := newProxy(t, func(o *Options) { o.Source, o.SourceWait, o.DestinationWait = nil, wait, wait })
	ca := identitytest.NewCA(t, "cluster.local")
	p.apply(resource("mesh", ca.Mesh()), resource("shop/weft-proxy", ca.IssueProxy(t, namespace)))
	return p
}

func TestClientsAreIdentified(t *testing.T) {
	tests := map[string]struct {
		workload   []wire.Resource
		wantStatus int
		wantReason reason.Reason
	}{
		"of this namespace": {[]wire.Resource{loopback(namespace)}, http.StatusOK, ""},
		"of another":        {[]wire.Resource{loopback("stock")}, http.StatusForbidden, reason.ForeignSource},
		"unknown":           {nil, http.StatusServiceUnavailable, reason.UnknownSource},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := identified(t, 20*time.Millisecond)
			p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
			p.apply(service("mail", wire.ProtocolTCP, shouting(t))...)
			p.apply(tc.workload...)
			got := get(t, p.listen(key("cart")), "/")
			if got.status != tc.wantStatus || got.reason() != string(tc.wantReason) {
				t.Errorf("answer = %v, want %d %s", got, tc.wantStatus, tc.wantReason)
			}
			if err := try(t, p.listen(key("mail")), ""); (err == nil) != (tc.wantReason == "") {
				t.Errorf("the TCP connection was answered with %v", err)
			}
		})
	}
}

func TestConnectionWaitsForItsClientAndDestination(t *testing.T) {
	p := identified(t, patience)
	address := p.listen(key("cart"))
	_, r := raw(t, address, lines("GET / HTTP/1.1", "Host: cart"))
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	p.apply(loopback(namespace))
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "cart" {
		t.Errorf("answer = %q, %v, want cart", body, err)
	}
}

func TestConnectionToNothingIsEnded(t *testing.T) {
	p := identified(t, 20*time.Millisecond)
	p.apply(loopback(namespace))
	if err := try(t, p.listen(key("nobody")), lines("GET / HTTP/1.1", "Host: nobody")); err == nil {
		t.Error("the connection got an answer, want none")
	}
	until(t, func() bool {
		return metrics(t, p.engine, "weft_connections_refused_total")["weft_listener=captured weft_reason=unknown_destination"] == 1
	})
}

func TestConnectionThatWasNotRedirectedIsRefused(t *testing.T) {
	p := identified(t, patience)
	p.apply(loopback(namespace))
	l := listenLoopback(t)
	p.serve(func() error { return p.engine.ServeCaptured(Captured(l)) })
	if err := try(t, l.Addr().String(), lines("GET / HTTP/1.1", "Host: cart")); err == nil {
		t.Error("the connection got an answer, want none")
	}
	until(t, func() bool {
		return metrics(t, p.engine, "weft_connections_refused_total")["weft_listener=captured weft_reason=not_captured"] == 1
	})
}
