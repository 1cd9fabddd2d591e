package engine

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// presenting returns how a client presents a certificate, whoever the server is.
func presenting(t *testing.T, c *wire.Certificate, protocol string) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{protocol}}
}

// Whoever has a certificate of a dropped root gets nothing more: not over a connection that is open, and not
// over a new one. What was under way comes to its end.
func TestAConnectionOfADroppedRootTakesNothingNew(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	peer, next := h.peers[0], identitytest.NewCA(t, "cluster.local")
	arrived, proceed := make(chan struct{}), make(chan struct{})
	stocked(peer, wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-proceed
		}
		_, _ = io.WriteString(w, "served")
	}))
	peer.apply(resource("mesh", next.Mesh(h.ca)), resource("stock/weft-proxy", next.IssueProxy(t, stock)))
	var address string
	for _, listener := range h.listeners {
		address = listener
	}
	old := presenting(t, h.ca.Issue(t, "shop", "client"), upstream.ALPNHTTP2)
	transport := &http.Transport{TLSClientConfig: old, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport, Timeout: patience}
	send := func(path string) (status int, why, body string, err error) {
		req := request(t, http.MethodGet, address, path, nil)
		req.URL.Scheme = "https"
		req.Header.Set(upstream.FieldBackend, stockKey)
		res, err := c.Do(req)
		if err != nil {
			return 0, "", "", err
		}
		defer func() { _ = res.Body.Close() }()
		all, err := io.ReadAll(res.Body)
		return res.StatusCode, res.Header.Get(upstream.FieldNotProcessed), string(all), err
	}
	if status, _, body, err := send("/"); err != nil || status != http.StatusOK || body != "served" {
		t.Fatalf("while the root is trusted: %d %q, %v", status, body, err)
	}
	opaque, err := tls.Dial("tcp", address, presenting(t, h.ca.Issue(t, "shop", "client"), upstream.ALPNTCP))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opaque.Close() }()
	until(t, func() bool { // the server has judged it, too
		return metrics(t, peer.engine, "weft_connections_total")["protocol="+upstream.ALPNTCP+" weft_listener=hop"] == 1
	})
	type result struct {
		body string
		err  error
	}
	slow := make(chan result, 1)
	go func() {
		_, _, body, err := send("/slow")
		slow <- result{body, err}
	}()
	<-arrived

	peer.apply(resource("mesh", next.Mesh()), resource("stock/weft-proxy", next.IssueProxy(t, stock)))
	if status, why, _, err := send("/"); err != nil || status != upstream.StatusNotProcessed || why != "untrusted_peer" {
		t.Errorf("over the open connection: %d %s, %v, want it not processed", status, why, err)
	}
	if err := upstream.WritePreface(opaque, upstream.Metadata{Backend: stockKey}); err != nil {
		t.Errorf("preface: %v", err)
	}
	if answer, err := io.ReadAll(opaque); err != nil || !strings.Contains(string(answer), "untrusted_peer") {
		t.Errorf("over the open opaque connection: %q, %v, want it rejected", answer, err)
	}
	close(proceed)
	if got := <-slow; got.err != nil || got.body != "served" {
		t.Errorf("what was under way: %+v", got)
	}
	// The proxy has asked the client to leave, so that this is another connection.
	if status, _, _, err := send("/"); err == nil {
		t.Errorf("over a new connection: %d, want a refusal", status)
	}
}
