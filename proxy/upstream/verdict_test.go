package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"weft.dev/weft/proxy/upstream/outlier"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/ports"
)

// verdictOn sends one request to an endpoint and tells what it says about it.
func verdictOn(t *testing.T, s *Set, to Endpoint, send func()) outlier.Verdict {
	t.Helper()
	e := to.state
	e.setState(outlier.State{Failures: 7})
	send()
	s.health.Lock()
	defer s.health.Unlock()
	switch e.state.Failures {
	case 7:
		return outlier.Neutral
	case 0:
		return outlier.Success
	}
	return outlier.Failure
}

// neverEjecting makes the first Backend's policy one that only counts.
func neverEjecting(r Resources) Resources {
	for _, b := range r.Backends {
		b.Policy = &wire.Policy{OutlierEjection: &wire.OutlierEjection{ConsecutiveFailures: new(0)}}
	}
	return r
}

func TestVerdictOnResponses(t *testing.T) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "body")
		}
	}
	grpc := func(head, trailer string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			if head != "" {
				w.Header().Set("Grpc-Status", head)
				return
			}
			_, _ = io.WriteString(w, "message")
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", trailer)
		}
	}
	type row struct {
		key     string
		handler http.HandlerFunc
		want    outlier.Verdict
	}
	rows := map[string]row{
		"200":                {webKey, answer(200), outlier.Success},
		"404":                {webKey, answer(404), outlier.Success},
		"499":                {webKey, answer(499), outlier.Success},
		"500":                {webKey, answer(500), outlier.Failure},
		"503":                {webKey, answer(503), outlier.Failure},
		"599":                {webKey, answer(599), outlier.Failure},
		"503 over HTTP/2":    {rpcKey, answer(503), outlier.Failure},
		"200 over HTTP/2":    {rpcKey, answer(200), outlier.Success},
		"breaks off":         {webKey, func(w http.ResponseWriter, _ *http.Request) { breakOff(w) }, outlier.Failure},
		"breaks off, HTTP/2": {rpcKey, func(w http.ResponseWriter, _ *http.Request) { breakOff(w) }, outlier.Failure},
		"no answer":          {webKey, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, outlier.Failure},
		"no answer, HTTP/2":  {rpcKey, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, outlier.Failure},
	}
	for code := range 17 {
		want := outlier.Success
		switch code {
		case 2, 4, 13, 14, 15:
			want = outlier.Failure
		}
		status := strconv.Itoa(code)
		rows["gRPC head "+status] = row{rpcKey, grpc(status, ""), want}
		rows["gRPC trailer "+status] = row{rpcKey, grpc("", status), want}
	}
	for name, tc := range rows {
		t.Run(name, func(t *testing.T) {
			s := newTestSet(t, Options{})
			s.Update(neverEjecting(direct(serve(t, tc.handler))))
			to := choose(t, s, tc.key)
			got := verdictOn(t, s, to, func() {
				req := newRequest("GET", "/", nil)
				if strings.HasPrefix(name, "gRPC") {
					req = newRequest("POST", "/", strings.NewReader("x"))
					req.Header.Set("Content-Type", "application/grpc")
				}
				_, _, _ = fetch(t.Context(), s, to, Call{}, req)
			})
			if got != tc.want {
				t.Errorf("verdict %d, want %d", got, tc.want)
			}
		})
	}
}

// breakOff ends a response before its body is complete.
func breakOff(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, "part")
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestVerdictOnRequestsThatEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		cause error
		want  outlier.Verdict
	}{
		"the client goes away":      {context.Canceled, outlier.Neutral},
		"the client's deadline":     {context.DeadlineExceeded, outlier.Neutral},
		"the policy's time is over": {fmt.Errorf("timeout: %w", ErrTooSlow), outlier.Failure},
	} {
		for where, early := range map[string]bool{"before the response": true, "within the response": false} {
			t.Run(name+" "+where, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				s := newTestSet(t, Options{})
				s.Update(neverEjecting(direct(serve(t, func(w http.ResponseWriter, r *http.Request) {
					if early {
						cancel(tc.cause)
					} else {
						_, _ = io.WriteString(w, "part")
						_ = http.NewResponseController(w).Flush()
					}
					<-r.Context().Done()
				}))))
				to := choose(t, s, webKey)
				got := verdictOn(t, s, to, func() {
					resp, err := s.RoundTrip(ctx, to, Call{}, newRequest("GET", "/", nil))
					if err != nil {
						return
					}
					cancel(tc.cause)
					_, _ = io.ReadAll(resp.Body)
					resp.Body.Close()
				})
				if got != tc.want {
					t.Errorf("verdict %d, want %d", got, tc.want)
				}
			})
		}
	}
}

func TestVerdictOnConnections(t *testing.T) {
	s := newTestSet(t, Options{})
	s.Update(neverEjecting(direct(ports.Refusing(t))))
	for _, key := range []string{webKey, rpcKey} {
		to := choose(t, s, key)
		if got := verdictOn(t, s, to, func() { failure(t.Context(), t, s, to, newRequest("GET", "/", nil)) }); got != outlier.Failure {
			t.Errorf("%s: a refused connection: verdict %d", key, got)
		}
	}
	to := choose(t, s, tcpKey)
	if got := verdictOn(t, s, to, func() { _, _ = s.Dial(t.Context(), to, Call{}) }); got != outlier.Failure {
		t.Errorf("a refused TCP connection: verdict %d", got)
	}
	s.Update(neverEjecting(direct(accept(t, func(int, net.Conn) {}))))
	to = choose(t, s, tcpKey)
	got := verdictOn(t, s, to, func() {
		c, err := s.Dial(t.Context(), to, Call{})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
	if got != outlier.Success {
		t.Errorf("a TCP connection: verdict %d", got)
	}
}

// TestVerdictOnTheHop: what an application does is not the fault of the proxy before it.
func TestVerdictOnTheHop(t *testing.T) {
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    outlier.Verdict
	}{
		"200":             {func(http.ResponseWriter, *http.Request) {}, outlier.Success},
		"500":             {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, outlier.Success},
		"503 with reason": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, outlier.Success},
		"no answer":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, outlier.Neutral},
		"breaks off":      {func(w http.ResponseWriter, _ *http.Request) { breakOff(w) }, outlier.Neutral},
		"gRPC UNAVAILABLE": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "14")
		}, outlier.Success},
		"not processed": {func(w http.ResponseWriter, _ *http.Request) {
			for name, values := range NotProcessedHeader("draining") {
				w.Header()[name] = values
			}
			w.WriteHeader(StatusNotProcessed)
		}, outlier.Neutral},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, tc.handler, nil)
			got := verdictOn(t, h.set, h.to, func() {
				req := newRequest("POST", "/", strings.NewReader("x"))
				req.Header.Set("Content-Type", "application/grpc")
				_, _, _ = fetch(t.Context(), h.set, h.to, cartCall, req)
			})
			if got != tc.want {
				t.Errorf("verdict %d, want %d", got, tc.want)
			}
		})
	}
	t.Run("connection lost", func(t *testing.T) {
		var h *hop
		served := make(chan net.Conn, 8)
		h = newHop(t, func(_ http.ResponseWriter, r *http.Request) {
			(<-served).Close()
			<-r.Context().Done()
		}, nil, func(o *Options) {
			dial := o.DialContext
			o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dial(ctx, network, address)
				if err == nil {
					served <- c
				}
				return c, err
			}
		})
		got := verdictOn(t, h.set, h.to, func() {
			_, _, _ = fetch(t.Context(), h.set, h.to, cartCall, newRequest("POST", "/", strings.NewReader("x")))
		})
		if got != outlier.Failure {
			t.Errorf("verdict %d, want a failure", got)
		}
	})
}
