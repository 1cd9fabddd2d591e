package engine

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// TestWhatIsMoreThanADirectExchange: requests that come to where others are exchanged directly, and cannot be, mean the
// same as anywhere.
func TestWhatIsMoreThanADirectExchange(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refuse":
			w.WriteHeader(http.StatusExpectationFailed)
		case "/held":
			begun <- struct{}{}
			<-finish
		default:
			w.Header().Set("Trailer", "X-Announced")
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("read the request: %v", err)
			}
			_, _ = w.Write(body)
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
		}
	}
	eachWay(t, nil, handler, func(t *testing.T, w way) {
		t.Run("a body that has to be asked for", func(t *testing.T) {
			for path, want := range map[string]answer{"/echo": {status: 200, body: "body"}, "/refuse": {status: 417}} {
				req := request(t, http.MethodPost, w.address, path, strings.NewReader("body"))
				req.Header.Set("Expect", "100-continue")
				req.Close = path == "/refuse" // whether another may follow depends on when the body comes
				if got := do(t, w.client, req); got.status != want.status || got.body != want.body {
					t.Errorf("%s: answer = %d %q", path, got.status, got.body)
				}
			}
		})
		t.Run("announced trailers", func(t *testing.T) {
			req := request(t, http.MethodPost, w.address, "/echo", nil)
			req.Trailer = http.Header{"X-Sum": nil}
			req.Body = &trailing{Reader: strings.NewReader("body"), end: func() { req.Trailer.Set("X-Sum", "42") }}
			req.ContentLength = -1
			got := do(t, w.client, req)
			if diff := cmp.Diff(http.Header{"X-Announced": {"42"}}, got.trailer); diff != "" || got.body != "body" {
				t.Errorf("answer = %v, trailer (-want +got):\n%s", got, diff)
			}
		})
		t.Run("copies", func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			copies, seen := recording(t, release)
			w.near.apply(backend("copies", wire.ProtocolHTTP, copies)...)
			w.filter(mirrorTo("copies")...)
			defer w.filter()
			for _, body := range []string{"", "order"} {
				req := request(t, http.MethodPost, w.address, "/echo?b", strings.NewReader(body))
				req.Host = "cart.example"
				if got := do(t, w.client, req); got.status != http.StatusOK || got.body != body {
					t.Errorf("answer = %v", got)
				}
				if got, want := receive(t, seen), "POST /echo?b cart.example "+body; got != want {
					t.Errorf("the copy is %q, want %q", got, want)
				}
			}
		})
		t.Run("limits", func(t *testing.T) {
			w.limit(&wire.CircuitBreaking{MaxRequests: new(1), MaxConnections: new(4)})
			held := make(chan error, 1)
			req := request(t, http.MethodGet, w.address, "/held", nil)
			go func() {
				res, err := w.client.Do(req)
				if err == nil {
					_ = res.Body.Close()
				}
				held <- err
			}()
			receive(t, begun)
			if got := do(t, w.client, request(t, http.MethodGet, w.address, "/echo", nil)); got.status != http.StatusServiceUnavailable || got.reason() != string(reason.CircuitOpen) {
				t.Errorf("answer beyond the limit = %v", got)
			}
			finish <- struct{}{}
			if err := receive(t, held); err != nil {
				t.Errorf("the first request: %v", err)
			}
			until(t, func() bool {
				return do(t, w.client, request(t, http.MethodGet, w.address, "/echo", nil)).status == http.StatusOK
			})
		})
	})
}
