package proxies

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/test/ports"
)

// kubelet serves port-forwards as an API server does that passes them on: every port leads to one server.
type kubelet struct {
	t      *testing.T
	leads  string
	denied bool
}

// ServeHTTP implements http.Handler.
func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if k.denied {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"pods \"p\" is forbidden"}`)
		return
	}
	if r.URL.Path != "/api/v1/namespaces/shop/pods/weft-proxy-1/portforward" {
		k.t.Errorf("asked for %s", r.URL.Path)
	}
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		k.t.Error(err)
		return
	}
	streams := make(chan httpstream.Stream, 8)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	for {
		select {
		case <-conn.CloseChan():
			return
		case s := <-streams:
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
				go k.lead(s)
			} else {
				_ = s.Close() // no error to tell
			}
		}
	}
}

// lead joins a stream with the server.
func (k *kubelet) lead(s httpstream.Stream) {
	defer func() { _ = s.Close() }()
	var d net.Dialer
	c, err := d.DialContext(k.t.Context(), "tcp", k.leads)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	go func() {
		_, _ = io.Copy(c, s)
		_ = c.Close()
	}()
	_, _ = io.Copy(s, c)
}

// forwardTo returns a way through a kubelet.
func forwardTo(t *testing.T, k *kubelet) *Forward {
	t.Helper()
	api := httptest.NewServer(k)
	t.Cleanup(api.Close)
	f, err := NewForward(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var proxyPod = types.NamespacedName{Namespace: "shop", Name: "weft-proxy-1"}

func TestForward(t *testing.T) {
	exchanges := admin.NewExchanges()
	inventory := &admin.Inventory{Build: "v1", Ready: func() bool { return true }, Connected: func() bool { return true }}
	proxy := httptest.NewServer(admin.Handler(inventory, exchanges))
	t.Cleanup(proxy.Close)
	way := forwardTo(t, &kubelet{t: t, leads: proxy.Listener.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if s, err := State(ctx, way, proxyPod, false); err != nil || s.Build != "v1" {
		t.Errorf("state = %+v, %v", s, err)
	}
	if _, err := way.Get(ctx, proxyPod, 15019, "/nothing"); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("of an unknown path: %v", err)
	}
	// A stream goes on until somebody ends it.
	following, stop := context.WithCancel(ctx)
	n := 0
	err := Follow(following, way, proxyPod, url.Values{}, func() {
		for i := range 3 {
			exchanges.Add(admin.Exchange{ID: fmt.Sprintf("r%d", i), Status: 200})
		}
	}, func(l admin.Line) {
		if want := fmt.Sprintf("r%d", n); l.ID != want {
			t.Errorf("line %d is about %s", n, l.ID)
		}
		if n++; n == 3 {
			stop()
		}
	})
	if err != nil || n != 3 {
		t.Errorf("after %d lines: %v", n, err)
	}
}

func TestForwardFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := State(ctx, forwardTo(t, &kubelet{t: t, denied: true}), proxyPod, false); !apierrors.IsForbidden(err) {
		t.Errorf("without a right: %v", err)
	}
	address := ports.Refusing(t).String()
	if _, err := State(ctx, forwardTo(t, &kubelet{t: t, leads: address}), proxyPod, false); err == nil || !strings.Contains(err.Error(), "does not answer: it may be of an older version") {
		t.Errorf("of a port that nobody listens at: %v", err)
	}
}
