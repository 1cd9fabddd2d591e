package trial_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/cmd/kubectl-weft/trial"
	"weft.dev/weft/controllers/compile"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/test/feature/harness"
)

// objects are a mesh in which every kind of decision occurs.
const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: front, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: v1, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: v2, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: v1, namespace: shop, labels: {kubernetes.io/service-name: v1}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: v1}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: v2, namespace: shop, labels: {kubernetes.io/service-name: v2}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.3], targetRef: {kind: Pod, name: v2}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /a}}, {path: {type: PathPrefix, value: /b}, method: POST}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: inside, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}
    backendRefs:
    - name: v1
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: via, value: v1}], remove: [secret]}}]
  - matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: canary, value: "yes"}]}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {type: Exact, value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: else.where, statusCode: 302}}]
  - matches: [{path: {value: /zero}}]
    backendRefs: [{name: v1, port: 80, weight: 0}]
  - matches: [{path: {value: /lost}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /empty}}]
    backendRefs: [{name: empty, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: front}
spec:
  parentRefs: [{group: "", kind: Service, name: v2, namespace: shop}]
  rules: [{matches: [{path: {value: /only}}], backendRefs: [{name: v1, namespace: shop, port: 80}]}]
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: v1, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: v1}]
  action: Deny
  rules:
  - {from: [{namespaces: [front]}], to: [{paths: [{type: Prefix, value: /x/secret}]}]}
  - {to: [{headers: [{name: via, type: Exact, value: v1}], methods: [PUT]}]}
`

type asked struct{ from, method, service, target, header string }

func (a asked) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s%s %s", a.from, a.method, a.service, a.target, a.header))
}

var questions = []asked{
	{"shop", "GET", "web", "/a/1?q", ""}, {"front", "GET", "web", "/a/1?q", ""}, {"front", "GET", "web", "/a", "secret: s"},
	{"front", "GET", "web", "/a/1", "canary: yes"}, {"front", "GET", "web", "/b", ""}, {"front", "POST", "web", "/b/", ""},
	{"shop", "GET", "web", "/moved", ""}, {"shop", "GET", "web", "/zero", ""}, {"shop", "GET", "web", "/lost/x", ""},
	{"shop", "GET", "web", "/empty", ""}, {"front", "GET", "web", "/empty", ""}, {"shop", "GET", "web", "/nothing", ""},
	{"front", "GET", "web", "/a/secret", ""}, {"shop", "GET", "web", "/a/secret", ""}, {"shop", "PUT", "web", "/a/7", ""},
	{"shop", "GET", "v2", "/other", ""}, {"front", "GET", "v2", "/other", ""}, {"front", "GET", "v2", "/only/this", ""},
	{"front", "PUT", "v1", "/direct", "via: v1"}, {"front", "GET", "web", "/a/%2e%2e/moved", ""},
}

// What is said about a request is what becomes of it in a real proxy.
func TestProxiesAgree(t *testing.T) {
	var s compile.Snapshot
	if err := harness.DecodeAll([]byte(objects), &s); err != nil {
		t.Fatal(err)
	}
	m, err := harness.Start(harness.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	applied, err := m.Apply(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	tried := trial.New(applied.Compiled.Resources, applied.Compiled.Enrolled)
	answers := map[string]bool{}
	for _, q := range questions {
		t.Run(q.String(), func(t *testing.T) {
			want := told(t, tried, q)
			answers[want.reason] = true
			if diff := cmp.Diff(want, observed(ctx, t, m, q)); diff != "" {
				t.Errorf("(-told +seen):\n%s", diff)
			}
		})
	}
	for _, why := range []reason.Reason{"", reason.NoRule, reason.NoBackend, reason.InvalidBackend, reason.NoEndpoints, reason.AuthorizationDenied} {
		if !answers[string(why)] {
			t.Errorf("no question is answered with reason %q", why)
		}
	}
}

// fate is what becomes of a request.
type fate struct {
	status                    int
	reason, pod, host, target string
	via, secret, location     string
}

func (f fate) Equal(other fate) bool { return f == other }

// told is what the trial says.
func told(t *testing.T, m *trial.Mesh, q asked) fate {
	t.Helper()
	req := phttp.Request{Method: q.method, Scheme: "http", Authority: q.service + ".shop"}
	if err := req.SetTarget(q.target); err != nil {
		t.Fatal(err)
	}
	if name, value, ok := strings.Cut(q.header, ": "); ok {
		req.Header.Add(name, value)
	}
	caller := trial.Caller{Namespace: q.from, ServiceAccount: harness.ClientAccount}
	o := m.Try(caller, "shop/"+q.service+":80", &req)
	answer := o.Answer
	if answer == nil && len(o.Backends) == 1 {
		answer = o.Backends[0].Answer
	}
	if answer != nil {
		f := fate{status: answer.Status, reason: string(answer.Reason)}
		if answer.Reason == reason.Redirect {
			f.reason, f.location = "", value(answer.Header, "location")
		}
		return f
	}
	b := o.Backends[0]
	service, _, _ := strings.Cut(strings.TrimPrefix(b.Key, "shop/"), ":")
	return fate{
		status: http.StatusOK, pod: service, host: b.Request.Authority, target: b.Request.Target,
		via: value(b.Request.Header, "via"), secret: value(b.Request.Header, "secret"),
	}
}

func value(header []string, name string) string {
	for _, h := range header {
		if v, ok := strings.CutPrefix(h, name+": "); ok {
			return v
		}
	}
	return ""
}

// observed is what a client sees, and the pod.
func observed(ctx context.Context, t *testing.T, m *harness.Mesh, q asked) fate {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, q.method, "http://"+q.service+".shop"+q.target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name, value, ok := strings.Cut(q.header, ": "); ok {
		req.Header.Set(name, value)
	}
	res, err := m.HTTP(q.from).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	f := fate{status: res.StatusCode, reason: res.Header.Get(reason.Header), location: res.Header.Get("Location")}
	if res.StatusCode != http.StatusOK {
		return f
	}
	var echo harness.Echo
	if err := json.NewDecoder(res.Body).Decode(&echo); err != nil {
		t.Fatal(err)
	}
	f.pod, f.host, f.target = echo.Pod, echo.Host, echo.Target
	f.via, f.secret = echo.Header.Get("Via"), echo.Header.Get("Secret")
	return f
}
