package feature_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/feature/harness"
)

// post returns a request with a body that only the proxy could send again.
func post(t *testing.T, url, body string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	return req
}

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// must sends a request that has to be answered.
func must(t *testing.T, client *http.Client, req *http.Request) answer {
	t.Helper()
	a, err := do(client, req)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTimeouts(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /request}}]
    timeouts: {request: 250ms}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /backend}}]
    timeouts: {request: 1h, backendRequest: 250ms}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /retried}}]
    timeouts: {request: 1h, backendRequest: 250ms}
    retry: {attempts: 2, codes: [504]}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /whole}}]
    timeouts: {request: 250ms}
    retry: {attempts: 1000, codes: [503], backoff: 1ms}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /far}}]
    timeouts: {request: 250ms}
    backendRefs: [{name: ledger, namespace: bank, port: 80}]
  - matches: [{path: {value: /long}}]
    timeouts: {request: 1h}
    backendRefs: [{name: web-v2, port: 80}]
  - matches: [{path: {value: /none}}]
    timeouts: {request: 0s}
    backendRefs: [{name: web-v2, port: 80}]
`))
	canceled := make(chan struct{}, 10)
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		canceled <- struct{}{}
	})
	busy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	tests := map[string]struct {
		path   string
		pod    string
		hang   bool
		busy   bool
		want   int
		reason string
		// most is how many requests the pod may see; on a busy machine a try may end before it is there.
		most int
	}{
		"the whole request":               {path: "/request", pod: "web-v1", hang: true, want: 504, reason: "deadline_exceeded", most: 1},
		"one try":                         {path: "/backend", pod: "web-v1", hang: true, want: 504, reason: "backend_timeout", most: 1},
		"a try that timed out is retried": {path: "/retried", pod: "web-v1", hang: true, want: 504, reason: "backend_timeout", most: 3},
		// The wait doubles until the request's timeout would end in it; what the backend has said last is passed on. On a
		// busy machine the timeout may end in a try.
		"the request bounds all tries": {path: "/whole", pod: "web-v1", busy: true, want: 503, most: 20},
		"in another namespace":         {path: "/far", pod: "ledger", hang: true, want: 504, reason: "deadline_exceeded", most: 1},
		"an answer in time":            {path: "/long", pod: "web-v2", want: 200, most: 1},
		"zero is no timeout":           {path: "/none", pod: "web-v2", want: 200, most: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(t, m, tc.pod)
			p.Handle(nil)
			switch {
			case tc.hang:
				p.Handle(hang)
			case tc.busy:
				p.Handle(busy)
			}
			before := p.Requests()
			a := must(t, m.HTTP("shop"), get(t, "http://web"+tc.path))
			late := tc.busy && a.status == 504 && a.header.Get("weft-reason") == "deadline_exceeded"
			if (a.status != tc.want || a.header.Get("weft-reason") != tc.reason) && !late {
				t.Errorf("answer %d %q, want %d %q", a.status, a.header.Get("weft-reason"), tc.want, tc.reason)
			}
			reached := p.Requests() - before
			if reached > tc.most {
				t.Errorf("%d requests reached %s, want at most %d", reached, tc.pod, tc.most)
			}
			if !tc.hang {
				return
			}
			for range reached {
				select {
				case <-canceled:
				case <-time.After(patience):
					t.Fatal("the application was not told that nobody waits any more")
				}
			}
		})
	}
}

func TestRetries(t *testing.T) {
	m := start(t)
	apply(t, m, with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /listed}}]
    retry: {attempts: 3, codes: [500, 503], backoff: 1ms}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /default}}]
    retry: {codes: [500], backoff: 1ms}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /off}}]
    retry: {attempts: 0, codes: [500]}
    backendRefs: [{name: web-v1, port: 80}]
  - matches: [{path: {value: /far}}]
    retry: {attempts: 3, codes: [503], backoff: 1ms}
    backendRefs: [{name: ledger, namespace: bank, port: 80}]
  - matches: [{path: {value: /plain}}]
    backendRefs: [{name: web-v1, port: 80}]
`))
	tests := map[string]struct {
		path string
		pod  string
		// fail is the status of the first failures requests.
		fail, failures int
		post           bool
		want, tries    int
	}{
		"until it succeeds":             {path: "/listed", fail: 503, failures: 2, want: 200, tries: 3},
		"the other code":                {path: "/listed", fail: 500, failures: 1, want: 200, tries: 2},
		"until attempts are used up":    {path: "/listed", fail: 503, failures: 9, want: 503, tries: 4},
		"a code that is not listed":     {path: "/listed", fail: 502, failures: 1, want: 502, tries: 1},
		"listed codes for any method":   {path: "/listed", fail: 503, failures: 2, post: true, want: 200, tries: 3},
		"one attempt is the default":    {path: "/default", fail: 500, failures: 9, want: 500, tries: 2},
		"zero attempts disable retries": {path: "/off", fail: 500, failures: 9, want: 500, tries: 1},
		"without a retry stanza":        {path: "/plain", fail: 503, failures: 1, want: 503, tries: 1},
		"in another namespace":          {path: "/far", pod: "ledger", fail: 503, failures: 2, post: true, want: 200, tries: 3},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			setDefault(&tc.pod, "web-v1")
			p := pod(t, m, tc.pod)
			var tries atomic.Int64
			p.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("read the body: %v", err)
				}
				if tc.post && string(body) != "hello" {
					t.Errorf("try %d had the body %q", tries.Load()+1, body)
				}
				if int(tries.Add(1)) <= tc.failures {
					w.WriteHeader(tc.fail)
				}
			}))
			req := get(t, "http://web"+tc.path)
			if tc.post {
				req = post(t, "http://web"+tc.path, "hello")
			}
			a := must(t, m.HTTP("shop"), req)
			if a.status != tc.want {
				t.Errorf("status %d, want %d", a.status, tc.want)
			}
			if got := int(tries.Load()); got != tc.tries {
				t.Errorf("%d tries, want %d", got, tc.tries)
			}
		})
	}
}

// TestDeadEndpoint: a pod that refuses connections costs no request as long as another one is there,
// whatever the method, because a refused request has reached nobody.
func TestDeadEndpoint(t *testing.T) {
	tests := map[string]struct{ from, url string }{
		"in the same namespace": {"shop", "http://web-v1/"},
		"in another namespace":  {"bank", "http://web-v1.shop/"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			apply(t, m, with(t, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v1, namespace: shop, labels: {kubernetes.io/service-name: web-v1}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.0.31], targetRef: {kind: Pod, name: alive}}
- {addresses: [10.244.0.32], targetRef: {kind: Pod, name: dead}}
`))
			client := m.HTTP(tc.from)
			dead := pod(t, m, "dead")
			for i := 0; dead.Requests() == 0; i++ {
				if i == 1000 {
					t.Fatal("one of two endpoints gets nothing")
				}
				must(t, client, post(t, tc.url, "x"))
			}
			if err := m.Refuse(dead); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				if a := must(t, client, post(t, tc.url, "x")); a.echo.Pod != "alive" {
					t.Fatalf("answer %d %s from %q", a.status, a.header.Get("weft-reason"), a.echo.Pod)
				}
			}
		})
	}
}

// TestUnusableConfiguration: a proxy that is sent what it cannot use keeps what it had, says so, and
// takes the rest.
func TestUnusableConfiguration(t *testing.T) {
	m := start(t)
	objects := with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: web-v1, port: 80}]}]
`)
	apply(t, m, objects)
	client := m.HTTP("shop")
	if err := harness.DecodeAll([]byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: web-v2, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: other, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: audit, port: 80}]
  rules: [{backendRefs: [{name: web-v2, port: 80}]}]
`), &objects); err != nil {
		t.Fatal(err)
	}
	applied, err := m.ApplyEdited(t.Context(), objects, func(resources []wire.Resource) []wire.Resource {
		for i := range resources {
			if r := &resources[i]; r.Route != nil && r.Route.Name == "web" {
				broken := *r.Route
				broken.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchRegex, Value: "("}}}
				resources[i] = wire.New(r.Key, r.Scope, r.Origin, &broken)
			}
		}
		return resources
	})
	if err != nil {
		t.Fatal(err)
	}
	var rejected []string
	for _, r := range applied.Rejected {
		rejected = append(rejected, r.String()+" of "+r.Origin.Kind+" "+r.Origin.Namespace+"/"+r.Origin.Name)
	}
	if diff := cmp.Diff([]string{"Route/HTTPRoute/shop/web/0 of HTTPRoute shop/web"}, rejected); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}
	if a := must(t, client, get(t, "http://web/")); a.echo.Pod != "web-v1" {
		t.Errorf("answered by %q, want web-v1 by the last usable route", a.echo.Pod)
	}
	if a := must(t, client, get(t, "http://audit/")); a.echo.Pod != "web-v2" {
		t.Errorf("answered by %q, want web-v2 by the other route", a.echo.Pod)
	}
	apply(t, m, objects)
	if a := must(t, client, get(t, "http://web/")); a.echo.Pod != "web-v2" {
		t.Errorf("answered by %q, want web-v2 once the route is usable", a.echo.Pod)
	}
}

// TestOperatorAway: without an operator proxies go on by what they have, and a new operator that knows
// nothing takes over without a failed request.
func TestOperatorAway(t *testing.T) {
	m := start(t)
	route := func(backend string) string {
		return `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: ` + backend + `, port: 80}]}]
`
	}
	apply(t, m, with(t, route("web-v1")))
	l := startLoad(t, 4, func(worker int) func() error {
		client := clientFor(m, enrolled(worker), worker)
		return func() error {
			a, err := do(client, post(t, "http://web.shop/", "x"))
			if err != nil {
				return err
			}
			return a.oneOf("web-v1", "web-v2")
		}
	})
	l.await(100)
	if err := m.StopControl(); err != nil {
		t.Fatal(err)
	}
	l.await(100)
	if err := m.RestartControl(); err != nil {
		t.Fatal(err)
	}
	l.await(100)
	apply(t, m, with(t, route("web-v2")))
	l.await(100)
	l.stop()
	if a := must(t, m.HTTP("bank"), get(t, "http://web.shop/")); a.echo.Pod != "web-v2" {
		t.Errorf("answered by %q, want web-v2 by the new operator", a.echo.Pod)
	}
}
