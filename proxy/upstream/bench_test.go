package upstream

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkRoundTrip shows what a request costs here beside net/http's own pool.
func BenchmarkRoundTrip(b *testing.B) {
	handler := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	run := func(name string, roundTrip func(*http.Request) (*http.Response, error)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, err := roundTrip(newRequest("GET", "/", nil))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	address := serve(b, handler)
	s := newTestSet(b, Options{})
	s.Update(direct(address))
	for name, key := range map[string]string{"HTTP1": webKey, "HTTP2": rpcKey} {
		to := choose(b, s, key)
		run(name, func(req *http.Request) (*http.Response, error) {
			return s.RoundTrip(b.Context(), to, Call{}, req)
		})
	}
	plain := &http.Transport{DisableCompression: true}
	defer plain.CloseIdleConnections()
	run("net-http", func(req *http.Request) (*http.Response, error) {
		req.URL.Host = address.String()
		return plain.RoundTrip(req)
	})
	h := newHop(b, handler, nil)
	run("hop", func(req *http.Request) (*http.Response, error) {
		return h.set.RoundTrip(b.Context(), h.to, cartCall, req)
	})
}
