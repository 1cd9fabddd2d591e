//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestTimeouts: a request that takes longer than its rule allows is answered with 504, in time and not
// before.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "timeouts")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: timeouts}
spec:
  parentRefs: [{group: "", kind: Service, name: timeouts, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /request}}]
    timeouts: {request: 1s}
    backendRefs: [{name: timeouts-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /backend}}]
    timeouts: {request: 6s, backendRequest: 1s}
    backendRefs: [{name: timeouts-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /none}}]
    timeouts: {request: 0s}
    backendRefs: [{name: timeouts-v1, port: 80}]
`))
	const slow = 8 * time.Second
	for _, tc := range []struct{ path, reason string }{{"/request", "deadline_exceeded"}, {"/backend", "backend_timeout"}} {
		expect(t, w.client, traffic.Request{URL: "http://timeouts" + tc.path}, from("v1"))
		a := w.client.Send(t, traffic.Request{URL: "http://timeouts" + tc.path + "?delay=" + slow.String()})
		if wrong := local(504, tc.reason)(&a); wrong != "" {
			t.Errorf("%s: %s; the answer: %s", tc.path, wrong, show(&a))
		}
		if took := a.Ended.Sub(a.Sent); took < time.Second || took >= slow {
			t.Errorf("%s: answered after %s, want at least 1 s and not what the backend needs", tc.path, took)
		}
	}
	a := w.client.Send(t, traffic.Request{URL: "http://timeouts/none?delay=3s"})
	if wrong := from("v1")(&a); wrong != "" {
		t.Errorf("without a timeout: %s; the answer: %s", wrong, show(&a))
	}
}

// TestRetries: a rule says how often and after which answers a request is sent again; without that,
// nothing is repeated that a backend may have seen.
func TestRetries(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "retries")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: retries}
spec:
  parentRefs: [{group: "", kind: Service, name: retries, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /retried}}]
    retry: {attempts: 2, codes: [503], backoff: 50ms}
    backendRefs: [{name: retries-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /plain}}]
    backendRefs: [{name: retries-v1, port: 80}]
`))
	captured(t, w.client, traffic.Request{URL: "http://retries/plain"})
	tests := map[string]struct {
		path, method string
		wantStatus   int
		wantSeen     int
	}{
		"success at last":       {"/retried?fail=2", http.MethodGet, 200, 3},
		"a method with effects": {"/retried?fail=1", http.MethodPost, 200, 2},
		"not often enough":      {"/retried?fail=3", http.MethodGet, 503, 3},
		"another code":          {"/retried?status=500", http.MethodGet, 500, 1},
		"no retry asked for":    {"/plain?fail=1", http.MethodGet, 503, 1},
		"cut off, with effects": {"/retried?reset=1", http.MethodPost, 502, 1},
		"cut off, idempotent":   {"/retried?reset=1", http.MethodGet, 502, 3},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := "retries-" + strings.Map(func(r rune) rune {
				if r == ' ' || r == ',' {
					return '-'
				}
				return r
			}, name)
			body := ""
			if tc.method == http.MethodPost {
				body = "a body"
			}
			a := w.client.Send(t, traffic.Request{URL: "http://retries" + tc.path + "&key=" + key, Method: tc.method, Body: body})
			if a.Error != "" || a.Status != tc.wantStatus {
				t.Errorf("want status %d; the answer: %s", tc.wantStatus, show(&a))
			}
			if a.Echo != nil && a.Echo.Body != body {
				t.Errorf("the backend got body %q, want %q", a.Echo.Body, body)
			}
			if seen := w.v1.Seen(t, key); seen != tc.wantSeen {
				t.Errorf("the backend has seen %d requests, want %d", seen, tc.wantSeen)
			}
		})
	}
}

// TestMirror: copies go where filters say, as often as they say, and answers of copies go nowhere.
func TestMirror(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "mirror")
	bed.Create(t, testbed.NewService(w.abroad, "mirror", allVersions))
	bed.Program(t, testbed.HTTPRoute(t, w.home, fmt.Sprintf(`
metadata: {name: mirror}
spec:
  parentRefs: [{group: "", kind: Service, name: mirror, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /all}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: mirror-v2, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {namespace: %s, name: mirror, port: 80}}}
    backendRefs: [{name: mirror-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /half}}]
    filters:
    - {type: RequestMirror, requestMirror: {percent: 50, backendRef: {name: mirror-v2, port: 80}}}
    backendRefs: [{name: mirror-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /none}}]
    filters:
    - {type: RequestMirror, requestMirror: {fraction: {numerator: 0, denominator: 3}, backendRef: {name: mirror-v2, port: 80}}}
    backendRefs: [{name: mirror-v1, port: 80}]
`, w.abroad)))
	captured(t, w.client, traffic.Request{URL: "http://mirror/all"})
	const n = 200
	for _, tc := range []struct {
		path             string
		abroad           bool
		wantMin, wantMax int
	}{{"all", true, n, n}, {"half", false, n * 3 / 10, n * 7 / 10}, {"none", false, 0, 0}} {
		key := "mirror-" + tc.path
		load := w.client.Load(t, traffic.Load{Workers: 4, Rate: 200, Requests: []traffic.Request{{
			URL: "http://mirror/" + tc.path + "?key=" + key, Method: http.MethodPost, Body: "a body",
		}}})
		load.More(n)
		p := load.Stop()
		for _, s := range p.Samples {
			if s.Version != "v1" || s.Failure != "" {
				t.Fatalf("%s: an answer from %q, %s; want all from v1", tc.path, s.Version, s.Failure)
			}
		}
		// How many have been sent is known only now.
		low, high := tc.wantMin*p.Sent/n, tc.wantMax*p.Sent/n
		places := map[string]*testbed.Pod{"home": w.v2}
		if tc.abroad {
			places["abroad"] = w.abroadV1
		}
		for where, pod := range places {
			seen := 0
			testbed.Eventually(t, func(context.Context) error {
				if seen = pod.Seen(t, key); seen < low {
					return fmt.Errorf("%s: %d copies have arrived %s, want at least %d of %d", tc.path, seen, where, low, p.Sent)
				}
				return nil
			})
			if seen > high {
				t.Errorf("%s: %d copies have arrived %s, want at most %d of %d", tc.path, seen, where, high, p.Sent)
			}
		}
		if seen := w.v1.Seen(t, key); seen != p.Sent {
			t.Errorf("%s: the backend has seen %d of %d requests", tc.path, seen, p.Sent)
		}
	}
}

// TestRewrites: hosts, paths and headers are changed on their way, and a redirect is answered.
func TestRewrites(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "rewrites")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: rewrites}
spec:
  parentRefs: [{group: "", kind: Service, name: rewrites, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /host}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: elsewhere.example}}]
    backendRefs: [{name: rewrites-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /other}}}]
    backendRefs: [{name: rewrites-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: set}], add: [{name: x-add, value: more}], remove: [x-remove]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: e2e-version, value: hidden}], add: [{name: x-new, value: new}]}
    backendRefs: [{name: rewrites-v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /redirect}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.example, statusCode: 301}}]
`))
	const url = "http://rewrites"
	expect(t, w.client, traffic.Request{URL: url + "/host"}, func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" || a.Echo.Host != "elsewhere.example" {
			return wrong + ", or the host is not rewritten"
		}
		return ""
	})
	expect(t, w.client, traffic.Request{URL: url + "/host", Protocol: traffic.H2C}, func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" || a.Echo.Host != "elsewhere.example" {
			return wrong + ", or the host is not rewritten"
		}
		return ""
	})
	expect(t, w.client, traffic.Request{URL: url + "/prefix/one?two=3"}, func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" || a.Echo.Path != "/other/one?two=3" {
			return wrong + ", or the path is not rewritten"
		}
		return ""
	})
	request := traffic.Request{URL: url + "/headers", Header: map[string]string{
		"X-Set": "before", "X-Add": "one", "X-Remove": "here", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}}
	expect(t, w.client, request, func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" {
			return wrong
		}
		switch {
		case !slices.Equal(a.Echo.Header["X-Set"], []string{"set"}), len(a.Echo.Header["X-Remove"]) > 0,
			strings.Join(a.Echo.Header["X-Add"], ",") != "one,more":
			return "the request's headers are not modified"
		case a.Echo.Get("Traceparent") != request.Header["Traceparent"]:
			return "the trace context is not passed on"
		case a.Get("E2e-Version") != "hidden", a.Get("X-New") != "new":
			return "the response's headers are not modified"
		}
		return ""
	})
	expect(t, w.client, traffic.Request{URL: url + "/redirect/there"}, func(a *traffic.Answer) string {
		if a.Status != 301 || a.Get("Location") != "http://elsewhere.example/redirect/there" {
			return "not redirected"
		}
		return ""
	})
}

// TestCORS: preflight requests are answered by the proxy, and answers say who may read them.
func TestCORS(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "cors")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: cors}
spec:
  parentRefs: [{group: "", kind: Service, name: cors, port: 80}]
  rules:
  - filters:
    - type: CORS
      cors:
        allowOrigins: ["https://app.example", "https://*.app.example"]
        allowCredentials: true
        allowMethods: [GET, PUT]
        allowHeaders: [x-token]
        exposeHeaders: [e2e-version]
        maxAge: 60
    backendRefs: [{name: cors-v1, port: 80}]
`))
	preflight := func(origin, method string) traffic.Request {
		return traffic.Request{URL: "http://cors/?key=cors-preflight", Method: http.MethodOptions, Header: map[string]string{
			"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-token",
		}}
	}
	allowed := func(origin string) func(*traffic.Answer) string {
		return func(a *traffic.Answer) string {
			switch {
			case a.Error != "" || a.Status != 200 && a.Status != 204 || a.Echo != nil:
				return "not answered by the proxy"
			case a.Get("Access-Control-Allow-Origin") != origin, a.Get("Access-Control-Allow-Credentials") != "true",
				!strings.Contains(a.Get("Access-Control-Allow-Methods"), "PUT"),
				!strings.EqualFold(a.Get("Access-Control-Allow-Headers"), "x-token"), a.Get("Access-Control-Max-Age") != "60":
				return "not allowed as configured"
			}
			return ""
		}
	}
	expect(t, w.client, preflight("https://app.example", "PUT"), allowed("https://app.example"))
	expect(t, w.client, preflight("https://one.app.example", "PUT"), allowed("https://one.app.example"))
	expect(t, w.client, preflight("https://evil.example", "PUT"), func(a *traffic.Answer) string {
		if a.Get("Access-Control-Allow-Origin") != "" {
			return "allowed"
		}
		return ""
	})
	if seen := w.v1.Seen(t, "cors-preflight"); seen != 0 {
		t.Errorf("the backend has seen %d preflight requests, want none", seen)
	}
	request := traffic.Request{URL: "http://cors", Header: map[string]string{"Origin": "https://app.example"}}
	expect(t, w.client, request, func(a *traffic.Answer) string {
		if wrong := from("v1")(a); wrong != "" {
			return wrong
		}
		if a.Get("Access-Control-Allow-Origin") != "https://app.example" || !strings.EqualFold(a.Get("Access-Control-Expose-Headers"), "e2e-version") {
			return "the answer does not say that it may be read"
		}
		return ""
	})
}

// TestGRPC: rules match methods, filters change metadata, and codes come through.
func TestGRPC(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "grpc")
	bed.Program(t, testbed.GRPCRoute(t, w.home, `
metadata: {name: grpc}
spec:
  parentRefs: [{group: "", kind: Service, name: grpc, port: 9000}]
  rules:
  - matches: [{method: {service: weft.e2e.Echo, method: Two}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: set}]}}]
    backendRefs: [{name: grpc-v2, port: 9000}]
  - backendRefs: [{name: grpc-v1, port: 9000}]
`))
	request := traffic.Request{Protocol: traffic.GRPC, URL: "grpc:9000"}
	expect(t, w.client, request, from("v1"))
	request.Method = "/weft.e2e.Echo/Two"
	expect(t, w.client, request, func(a *traffic.Answer) string {
		if wrong := from("v2")(a); wrong != "" || a.Echo.Get("X-Set") != "set" {
			return wrong + ", or the metadata is not modified"
		}
		return ""
	})
	request.Header = map[string]string{"e2e-code": "9"}
	always(t, w.client, request, func(a *traffic.Answer) string {
		if codes.Code(a.Status) != codes.FailedPrecondition || a.Body != "as asked for" {
			return "the backend's status does not come through"
		}
		return ""
	})
}
