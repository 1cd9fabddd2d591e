package engine

import "net/http"

// HealthHandler serves what wire.PortHealth offers: /healthz is 200 while the process works, /readyz while
// Ready, /accepting while Accepting. Node agents probe the last every second, and stop sending
// connections when it is not 200.
func (e *Engine) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", probe(func() bool { return true }))
	mux.Handle("GET /readyz", probe(e.Ready))
	mux.Handle("GET /accepting", probe(e.Accepting))
	return mux
}

func probe(ok func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ok() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		// A prober that has gone does not need the answer.
		_, _ = w.Write([]byte("ok\n"))
	})
}
