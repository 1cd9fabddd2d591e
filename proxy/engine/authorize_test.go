package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// authorization returns the resource of an authorization.
func authorization(a wire.Authorization) wire.Resource {
	r := resource(a.Key(), &a)
	r.Scope = wire.ScopeNamespace(a.Namespace)
	return r
}

// only is a rule for one ServiceAccount, and for what it does if that is given.
func only(namespace, account string, to ...wire.AuthorizationOperation) wire.AuthorizationRule {
	return wire.AuthorizationRule{To: to, From: []wire.AuthorizationSource{{
		ServiceAccounts: []wire.ServiceAccount{{Namespace: namespace, Name: account}},
	}}}
}

func below(prefix string) wire.AuthorizationOperation {
	return wire.AuthorizationOperation{Paths: []wire.PathPattern{{Type: wire.PathPrefix, Value: prefix}}}
}

const decisions = "weft_authorization_decisions_total"

func TestAuthorizationOfOwnClients(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	p.apply(
		authorization(wire.Authorization{Namespace: namespace, Name: "web", Action: wire.AuthorizationAllow,
			Targets: []wire.AuthorizationTarget{{Service: "web"}}, Rules: []wire.AuthorizationRule{only(namespace, "client", below("/open"))}}),
		authorization(wire.Authorization{Namespace: namespace, Name: "late", Action: wire.AuthorizationDeny, Audit: true,
			Rules: []wire.AuthorizationRule{{To: []wire.AuthorizationOperation{{Methods: []string{"DELETE"}}}}}}),
	)
	address := p.listen(key("web"))
	for _, tc := range []struct {
		method, target, want string
	}{
		{http.MethodGet, "/open/a", `200  "web"`},
		{http.MethodDelete, "/open/a", `200  "web"`},
		{http.MethodGet, "/shut", `403 authorization_denied "weft: the caller is not allowed to do this\n"`},
		{http.MethodGet, "/open/..%2Fshut", `403 authorization_denied "weft: the caller is not allowed to do this\n"`},
	} {
		if got := do(t, client(t), request(t, tc.method, address, tc.target, nil)).String(); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.method, tc.target, got, tc.want)
		}
	}
	want := map[string]float64{
		"weft_authorization_policy=shop/web weft_authorization_rule=0 weft_authorization_verdict=allowed weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=web":     1,
		"weft_authorization_policy=shop/late weft_authorization_rule=0 weft_authorization_verdict=would_deny weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=web": 1,
		"weft_authorization_policy=shop/web weft_authorization_rule= weft_authorization_verdict=denied weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=web":       2,
	}
	if diff := cmp.Diff(want, metrics(t, p.engine, decisions)); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}

	p.delta(wire.Delta{Removed: []wire.Ref{{Kind: wire.KindAuthorization, Key: "shop/web"}}})
	if got := get(t, address, "/shut").String(); got != `200  "web"` {
		t.Errorf("%s, although the policy is gone", got)
	}
	delete(want, "weft_authorization_policy=shop/web weft_authorization_rule=0 weft_authorization_verdict=allowed weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=web")
	delete(want, "weft_authorization_policy=shop/web weft_authorization_rule= weft_authorization_verdict=denied weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=web")
	want["weft_authorization_policy= weft_authorization_rule= weft_authorization_verdict=allowed weft_destination_namespace=shop weft_destination_port=80 weft_destination_service=web"] = 1
	if diff := cmp.Diff(want, metrics(t, p.engine, decisions)); diff != "" {
		t.Errorf("decisions without the policy (-want +got):\n%s", diff)
	}
}

// TestAuthorizationSeesWhatTheApplicationSees: a route may rewrite what a policy looks at, and send where another
// policy applies.
func TestAuthorizationSeesWhatTheApplicationSees(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	p.apply(service("api", wire.ProtocolHTTP, server(t, echo))...)
	p.apply(
		route("web", "web", func(r *wire.Route) {
			r.Backends = to("api")
			r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/"}}}
			r.Filters = []wire.Filter{{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplacePrefixMatch: new("/v1")}}}}
			r.Policy = &wire.Policy{RateLimits: []wire.RateLimit{{Requests: 1, Interval: wire.Duration(patience), Burst: 1}}}
		}),
		authorization(wire.Authorization{Namespace: namespace, Name: "api", Action: wire.AuthorizationAllow,
			Targets: []wire.AuthorizationTarget{{Service: "api", Port: 80}}, Rules: []wire.AuthorizationRule{only(namespace, "client", below("/v1/a"))}}),
		authorization(wire.Authorization{Namespace: namespace, Name: "web", Action: wire.AuthorizationDeny,
			Targets: []wire.AuthorizationTarget{{Service: "web"}}, Rules: []wire.AuthorizationRule{{}}}),
	)
	address := p.listen(key("web"))
	// What is denied takes nothing from the limit.
	for range 2 {
		if got := get(t, address, "/b"); got.reason() != string(reason.AuthorizationDenied) {
			t.Errorf("/b: %s", got)
		}
	}
	if got := get(t, address, "/a"); got.status != http.StatusOK || !strings.HasPrefix(got.body, "GET /v1/a ") {
		t.Errorf("/a: %s", got)
	}
	if got := get(t, address, "/a"); got.reason() != string(reason.RateLimited) {
		t.Errorf("/a again: %s", got)
	}
}

func TestAuthorizationOfMirrors(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	p.apply(backend("copy", wire.ProtocolHTTP, server(t, func(http.ResponseWriter, *http.Request) { t.Error("a copy arrived") }))...)
	p.apply(
		route("web", "web", func(r *wire.Route) {
			r.Backends = to("web")
			r.Filters = []wire.Filter{{Mirror: &wire.Mirror{Backend: key("copy"), Numerator: 1, Denominator: 1}}}
		}),
		authorization(wire.Authorization{Namespace: namespace, Name: "copy", Action: wire.AuthorizationAllow,
			Targets: []wire.AuthorizationTarget{{Service: "copy"}}}),
	)
	if got := get(t, p.listen(key("web")), "/"); got.body != "web" {
		t.Errorf("answer: %s", got)
	}
	until(t, func() bool { return p.metric("weft_mirror_requests_total", "outcome", "dropped") == 1 })
}

// TestAuthorizationAtTheHop: the callee's proxy decides by the identity that the caller's proxy has proven.
func TestAuthorizationAtTheHop(t *testing.T) {
	h := newHop(t, 2, wire.ProtocolHTTP)
	address := h.policed(retries(3, 0, http.StatusForbidden), wire.ProtocolHTTP, named(t, "api"))
	decide := func(rules ...wire.AuthorizationRule) {
		for _, peer := range h.peers {
			peer.apply(authorization(wire.Authorization{Namespace: stock, Name: "api", Action: wire.AuthorizationAllow,
				Targets: []wire.AuthorizationTarget{{Service: "api"}}, Rules: rules}))
		}
	}
	decide(only(namespace, "client", below("/a")))
	if got := get(t, address, "/a"); got.body != "api" {
		t.Errorf("what is allowed: %s", got)
	}
	if got := get(t, address, "/b"); got.status != http.StatusForbidden || got.reason() != string(reason.AuthorizationDenied) {
		t.Errorf("what is not allowed: %s", got)
	}
	denied := h.peers[0].metric(decisions, "weft_authorization_verdict", "denied") + h.peers[1].metric(decisions, "weft_authorization_verdict", "denied")
	if denied != 1 {
		t.Errorf("it was asked %g times", denied)
	}
	decide(only(stock, "client"), only(namespace, "other"))
	if got := get(t, address, "/a"); got.reason() != string(reason.AuthorizationDenied) {
		t.Errorf("another identity: %s", got)
	}
	decide(wire.AuthorizationRule{From: []wire.AuthorizationSource{{IPBlocks: []wire.IPBlock{{CIDR: "127.0.0.0/8"}}}}})
	if got := get(t, address, "/a"); got.body != "api" {
		t.Errorf("the client's address: %s", got)
	}

	// A WebSocket comes as bytes, of which the path is not known.
	upgrade := lines("GET /a HTTP/1.1", "Host: api", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
	decide(only(namespace, "client", below("/a")))
	_, reader := raw(t, address, upgrade)
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusForbidden || res.Header.Get(reason.Header) != string(reason.AuthorizationDenied) {
		t.Errorf("WebSocket: %s %s", res.Status, res.Header.Get(reason.Header))
	}
}

// TestAuthorizationOfUnknownBackends: what a peer makes up is no label.
func TestAuthorizationOfUnknownBackends(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolTCP)
	peer := h.peers[0]
	peer.apply(authorization(wire.Authorization{Namespace: stock, Name: "a", Action: wire.AuthorizationAllow}))
	if err := try(t, h.listen(stockKey), "x"); err == nil {
		t.Error("a connection was served")
	}
	want := map[string]float64{"weft_authorization_policy=stock/a weft_authorization_rule= weft_authorization_verdict=denied weft_destination_namespace= weft_destination_port= weft_destination_service=_other": 1}
	if diff := cmp.Diff(want, metrics(t, peer.engine, decisions)); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
}

func TestAuthorizationOfGRPC(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolH2C, named(t, "web"))...)
	p.apply(authorization(wire.Authorization{Namespace: namespace, Name: "web", Action: wire.AuthorizationDeny, Rules: []wire.AuthorizationRule{
		{To: []wire.AuthorizationOperation{{GRPC: []wire.GRPCMethod{{Service: "grpc.testing.TestService", Method: "EmptyCall"}}}}},
	}}))
	conn, err := grpc.NewClient("passthrough:///"+p.listen(key("web")), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = grpc_testing.NewTestServiceClient(conn).EmptyCall(ctx, &grpc_testing.Empty{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("call: %v", err)
	}
}

func TestAuthorizationOfConnections(t *testing.T) {
	greeter := func() string {
		return accepting(t, func(c net.Conn) { _, _ = io.WriteString(c, "hello") })
	}
	methods := wire.AuthorizationOperation{Methods: []string{"GET"}}
	allow, deny := wire.AuthorizationAllow, wire.AuthorizationDeny
	h := newHop(t, 1, wire.ProtocolTCP)
	stocked(h.peers[0], wire.ProtocolTCP, greeter())
	far := h.listen(stockKey)
	p := newProxy(t)
	p.apply(service("db", wire.ProtocolTCP, greeter())...)
	near := p.listen(key("db"))
	for name, tc := range map[string]struct {
		action wire.AuthorizationAction
		rule   wire.AuthorizationRule
		opens  bool
	}{
		"by identity":                 {allow, only(namespace, "client"), true},
		"of another identity":         {allow, only(namespace, "other"), false},
		"by port":                     {allow, only(namespace, "client", wire.AuthorizationOperation{Ports: []uint16{80}}), true},
		"to another port":             {allow, only(namespace, "client", wire.AuthorizationOperation{Ports: []uint16{81}}), false},
		"that might be allowed":       {allow, only(namespace, "client", methods), false},
		"that might be denied":        {deny, only(namespace, "client", methods), false},
		"of which another is denied":  {deny, only(namespace, "other", methods), true},
		"by an address that is known": {allow, wire.AuthorizationRule{From: []wire.AuthorizationSource{{IPBlocks: []wire.IPBlock{{CIDR: "127.0.0.1/32"}}}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			for side, at := range map[string]struct {
				proxy     *proxy
				namespace string
				address   string
			}{"own": {p, namespace, near}, "hop": {h.peers[0], stock, far}} {
				at.proxy.apply(authorization(wire.Authorization{Namespace: at.namespace, Name: "a", Action: tc.action, Rules: []wire.AuthorizationRule{tc.rule}}))
				if err := try(t, at.address, "x"); (err == nil) != tc.opens {
					t.Errorf("%s: %v", side, err)
				}
			}
		})
	}
}

// TestAuthorizationThatCannotBeUsed: it opens nothing, and takes nothing away that is in force.
func TestAuthorizationThatCannotBeUsed(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	p.apply(service("other", wire.ProtocolHTTP, named(t, "other"))...)
	web, other := p.listen(key("web")), p.listen(key("other"))
	policy := func(service string, rules ...wire.AuthorizationRule) wire.Resource {
		return authorization(wire.Authorization{Namespace: namespace, Name: "a", Action: wire.AuthorizationAllow,
			Targets: []wire.AuthorizationTarget{{Service: service}}, Rules: rules})
	}
	bad := wire.AuthorizationRule{From: []wire.AuthorizationSource{{SPIFFE: []string{"*"}}}}
	check := func(when, wantWeb, wantOther string) {
		t.Helper()
		for address, want := range map[string]string{web: wantWeb, other: wantOther} {
			got := get(t, address, "/")
			if got.status == http.StatusForbidden {
				got.body = "denied"
			}
			if got.body != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
	}
	rejected := func(r wire.Resource) {
		t.Helper()
		if got := p.delta(wire.Delta{Upserted: []wire.Resource{r}}); len(got) != 1 || got[0].Key != "shop/a" {
			t.Errorf("rejected: %v", got)
		}
	}
	rejected(policy("web", bad))
	check("without a previous version", "denied", "other")
	rejected(policy("other", bad))
	check("with one that cannot be used either", "web", "denied")
	p.apply(policy("web", only(namespace, "client")))
	check("with a version that can be used", "web", "other")
	rejected(policy("other", bad))
	check("with that for the previous version", "web", "other")
	p.delta(wire.Delta{Removed: []wire.Ref{{Kind: wire.KindAuthorization, Key: "shop/a"}}})
	hollow := policy("web")
	hollow.Authorization = nil
	rejected(hollow)
	check("without content", "denied", "denied")
	misnamed := policy("web")
	misnamed.Authorization.Name = "b"
	rejected(misnamed)
	check("with the key of another", "denied", "other")
}

// TestAuthorizationByAddress: it is the pod's that counts, whatever the client says.
func TestAuthorizationByAddress(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	p.apply(authorization(wire.Authorization{Namespace: namespace, Name: "a", Action: wire.AuthorizationAllow, Rules: []wire.AuthorizationRule{
		{From: []wire.AuthorizationSource{{IPBlocks: []wire.IPBlock{{CIDR: netip.MustParsePrefix("10.0.0.0/8").String()}}}}},
	}}))
	req := request(t, http.MethodGet, p.listen(key("web")), "/", nil)
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Weft-Client"} {
		req.Header.Set(name, "10.0.0.1")
	}
	if got := do(t, client(t), req); got.reason() != string(reason.AuthorizationDenied) {
		t.Errorf("answer: %s", got)
	}
}
