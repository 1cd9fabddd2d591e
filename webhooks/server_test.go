package webhooks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"weft.dev/weft/controllers/identity"
)

// newCA returns an authority whose trusted roots are its own and those of others.
func newCA(t *testing.T, others ...*identity.CA) *identity.CA {
	t.Helper()
	data, err := identity.GenerateCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range others {
		data["ca.crt"] = slices.Concat(data["ca.crt"], []byte(other.Bundle()))
	}
	ca, err := identity.ParseCA(data)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// startServer starts a server on loopback that ends with the test, and returns its address once it serves.
func startServer(t *testing.T, serving *identity.Serving) (*Server, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	read := make(chan struct{})
	server := &Server{
		Listen: address, GetCertificate: serving.GetCertificate,
		Handler: NewHandler(nil, logr.Discard()),
		Await: func(context.Context) error {
			<-read
			return nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if server.Ready(nil) == nil {
			t.Error("it is ready after its end")
		}
	})
	if server.Ready(nil) == nil {
		t.Error("it is ready before it has read anything")
	}
	close(read)
	for server.Ready(nil) != nil {
		select {
		case <-t.Context().Done():
			t.Fatal("it does not serve")
		case <-time.After(time.Millisecond):
		}
	}
	return server, address
}

// dial connects as an API server that has a bundle does, and returns the certificate that it was shown.
func dial(t *testing.T, address, bundle string, maxVersion uint16) (*x509.Certificate, error) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle)) {
		t.Fatal("no roots")
	}
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "weft-webhook.weft-system.svc", MaxVersion: maxVersion}}
	connection, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	return connection.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func TestServingCertificateIsExchanged(t *testing.T) {
	first := newCA(t)
	var ca atomic.Pointer[identity.CA]
	ca.Store(first)
	var age atomic.Int64 // of the first certificate
	age.Store(int64(31 * time.Minute))
	serving := &identity.Serving{
		CA: ca.Load, Names: identity.ServiceNames(ServiceName, "weft-system"), Lifetime: time.Hour,
		Now: func() time.Time { return time.Now().Add(-time.Duration(age.Load())) },
	}
	_, address := startServer(t, serving)
	bundle := func() string { return ca.Load().Bundle() }

	before, err := dial(t, address, bundle(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := dial(t, address, bundle(), 0); err != nil || !again.Equal(before) {
		t.Errorf("another certificate on the next connection (error %v)", err)
	}
	if _, err := dial(t, address, bundle(), tls.VersionTLS12); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: error %v", err)
	}

	age.Store(0)
	renewed, err := dial(t, address, bundle(), 0)
	if err != nil || renewed.Equal(before) {
		t.Errorf("the certificate is not renewed at half of its life (error %v)", err)
	}

	// An administrator exchanges the authority: while it has both roots, API servers accept what either
	// has issued, so it does not matter which replica answers.
	second := newCA(t, first)
	if _, err := dial(t, address, second.Bundle(), 0); err != nil {
		t.Errorf("a replica with the old authority, verified by the new bundle: %v", err)
	}
	ca.Store(second)
	if _, err := dial(t, address, second.Bundle(), 0); err != nil {
		t.Errorf("a replica with the new authority: %v", err)
	}
	if _, err := dial(t, address, first.Bundle(), 0); err == nil {
		t.Error("the old bundle accepts what the new authority has issued")
	}
}

func TestServesTheHandler(t *testing.T) {
	ca := newCA(t)
	_, address := startServer(t, &identity.Serving{
		CA: func() *identity.CA { return ca }, Names: []string{"localhost"}, Lifetime: time.Hour, Now: time.Now,
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.Bundle()))
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}, ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{Path + "?timeout=2s": http.StatusOK, "/": http.StatusNotFound} {
		response, err := client.Post("https://"+address+path, "application/json", strings.NewReader(string(question(t, route))))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want || response.ProtoMajor != 2 {
			t.Errorf("%s: status %d over HTTP/%d, want %d", path, response.StatusCode, response.ProtoMajor, want)
		}
	}
}
