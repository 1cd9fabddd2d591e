package engine

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// TestStandingConnectionsEnd: those that are not allowed any more end when authorizations change, and others go on.
func TestStandingConnectionsEnd(t *testing.T) {
	open := map[string]func(t *testing.T) (allowing *proxy, namespace, address, request string){
		"TCP in the own namespace": func(t *testing.T) (*proxy, string, string, string) {
			p := newProxy(t)
			p.apply(service("web", wire.ProtocolTCP, shouting(t))...)
			return p, namespace, p.listen(key("web")), ""
		},
		"TCP over the hop": func(t *testing.T) (*proxy, string, string, string) {
			h := newHop(t, 1, wire.ProtocolTCP)
			stocked(h.peers[0], wire.ProtocolTCP, shouting(t))
			return h.peers[0], stock, h.listen(stockKey), ""
		},
		"WebSocket in the own namespace": func(t *testing.T) (*proxy, string, string, string) {
			p := newProxy(t)
			p.apply(service("web", wire.ProtocolHTTP, upgrading(t))...)
			return p, namespace, p.listen(key("web")), upgradeRequest
		},
		"WebSocket over the hop": func(t *testing.T) (*proxy, string, string, string) {
			h := newHop(t, 1, wire.ProtocolHTTP)
			stocked(h.peers[0], wire.ProtocolHTTP, upgrading(t))
			return h.peers[0], stock, h.listen(stockKey), upgradeRequest
		},
	}
	for name, start := range open {
		t.Run(name, func(t *testing.T) {
			decider, in, address, upgrade := start(t)
			c, r := raw(t, address, upgrade)
			greeting, answer := "220 ready\n", "PING\n"
			if upgrade != "" {
				res, err := http.ReadResponse(r, nil)
				if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
					t.Fatalf("answer = %v, %v, want 101", res, err)
				}
				defer func() { _ = res.Body.Close() }()
				greeting, answer = "hello ", "ping\n"
			}
			expect(t, r, greeting)
			alive := func() {
				t.Helper()
				if _, err := io.WriteString(c, "ping\n"); err != nil {
					t.Fatalf("write: %v", err)
				}
				expect(t, r, answer)
			}
			policy := func(rules ...wire.AuthorizationRule) {
				decider.apply(authorization(wire.Authorization{Namespace: in, Name: "a", Action: wire.AuthorizationAllow, Rules: rules}))
			}
			alive()
			policy(only(namespace, "client"))
			alive()
			if decider.metric(decisions, "weft_authorization_verdict", "denied")+decider.metric(decisions, "weft_authorization_verdict", "allowed") != 0 {
				t.Error("what goes on is counted again")
			}
			policy(only(namespace, "other"))
			// In the own namespace it is reset.
			if rest, err := io.ReadAll(r); len(rest) > 0 || err == nil && in == namespace {
				t.Errorf("after it was denied came %q, %v", rest, err)
			}
			until(t, func() bool { return decider.metric(decisions, "weft_authorization_verdict", "denied") == 1 })
		})
	}
}

// TestPolicyChangesBeforeTheRelay: who is denied between the decision and the relay does not slip through.
func TestPolicyChangesBeforeTheRelay(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolTCP)...)
	e := p.engine
	before := e.config.Load()
	p.apply(authorization(wire.Authorization{Namespace: namespace, Name: "a", Action: wire.AuthorizationAllow}))
	ctx, leave := e.standBy(before, caller{backend: key("web")})
	defer leave()
	if ctx.Err() == nil {
		t.Error("the connection goes on")
	}
}

// TestDenialsAreLogged: one line in a while names the policy and the rule, without anybody asking for more.
func TestDenialsAreLogged(t *testing.T) {
	logged := make(logLines, 100)
	p := newProxy(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(logged, nil)) })
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	p.apply(authorization(wire.Authorization{Namespace: namespace, Name: "a", Action: wire.AuthorizationDeny, Rules: []wire.AuthorizationRule{only("x", "y"), {}}}))
	address := p.listen(key("web"))
	begun := time.Now()
	for range 5 {
		get(t, address, "/")
	}
	seconds := int(time.Since(begun)/failureLogInterval) + 1
	var seen []string
	for len(logged) > 0 {
		if line := <-logged; strings.Contains(line, "MeshAuthorization") {
			seen = append(seen, line)
		}
	}
	if len(seen) == 0 || len(seen) > seconds || !strings.Contains(seen[0], "level=INFO") || !strings.Contains(seen[0], "policy=shop/a rule=1 source=spiffe://") {
		t.Errorf("lines: %q", seen)
	}
}
