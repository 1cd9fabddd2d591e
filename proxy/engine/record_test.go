package engine

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

// What is remembered of a request is what the client asked for, and what became of it.
func TestExchangesAreRemembered(t *testing.T) {
	for _, engine := range []HTTPEngine{HTTPStd, HTTPWeft} {
		t.Run(string(engine), func(t *testing.T) { testRemembered(t, engine) })
	}
}

func testRemembered(t *testing.T, engine HTTPEngine) {
	exchanges := admin.NewExchanges()
	p := newProxy(t, func(o *Options) { o.Exchanges, o.HTTP = exchanges, engine })
	address := named(t, "web")
	p.apply(service("web", wire.ProtocolHTTP, address)...)
	p.apply(route("to-web", "web", func(r *wire.Route) {
		r.RuleName, r.Backends = "main", to("web")
		r.Matches = []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: "/a"}}}
		r.Filters = []wire.Filter{{URLRewrite: &wire.URLRewrite{Path: &wire.PathModifier{ReplaceFullPath: new("/b")}}}}
	}))
	at := p.listen(key("web"))
	req := request(t, http.MethodPut, at, "/a/%C3%A9?token=x", nil)
	req.Header.Set("X-Request-Id", "r1")
	if got := do(t, client(t), req); got.status != http.StatusOK {
		t.Fatalf("answer = %s", got)
	}
	if got := get(t, at, "/other"); got.status != http.StatusNotFound {
		t.Fatalf("answer = %s", got)
	}
	until(t, func() bool { return len(exchanges.Recent()) == 2 })
	want := []admin.Exchange{{
		ID: "r1", Listener: listenerCaptured, Method: "PUT", Authority: req.Host, Path: "/a/%C3%A9", Destination: key("web"),
		Route: "HTTPRoute/" + namespace + "/to-web", Rule: "main", Backend: key("web"), Endpoint: netip.MustParseAddrPort(address), Tries: 1, Status: 200,
	}, {
		Listener: listenerCaptured, Method: "GET", Path: "/other", Destination: key("web"), Status: 404, Reason: "no_rule_matched",
	}}
	if diff := cmp.Diff(want, exchanges.Recent(), cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.IgnoreFields(admin.Exchange{}, "Time", "Duration", "Source", "Client"),
		cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Authority" }, cmp.Ignore())); diff != "" {
		t.Errorf("exchanges (-want +got):\n%s", diff)
	}
}
