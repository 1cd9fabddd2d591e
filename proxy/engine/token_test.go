package engine

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

const issuer = "https://id.example"

// believing is a policy for requests with tokens that a key has signed, of which one may read and one write.
func believing(namespace string, key jwttest.Key) wire.Authorization {
	by := func(scope string) []wire.AuthorizationSource {
		return []wire.AuthorizationSource{{Token: &wire.TokenMatch{Claims: []wire.ClaimMatch{{Path: []string{"scope"}, Values: []string{scope}}}}}}
	}
	return wire.Authorization{
		Namespace: namespace, Name: "tokens", Action: wire.AuthorizationAllow,
		Tokens: &wire.TokenVerification{Issuers: []wire.TokenIssuer{{
			Issuer: issuer, Keys: jwttest.Set(key), Audiences: []string{"shop"}, Headers: []wire.ClaimHeader{{Name: "X-User", Path: []string{"sub"}}},
		}}},
		Rules: []wire.AuthorizationRule{
			{From: by("read"), To: []wire.AuthorizationOperation{{Methods: []string{"GET"}}}},
			{From: by("write"), Conditions: []string{"request.method == 'POST' && request.headers['x-user'] == 'alice'"}},
			{To: []wire.AuthorizationOperation{below("/public")}},
		},
	}
}

// TestTokens: the callee's proxy verifies tokens, whichever namespace they come from, and only claims set the
// headers that are theirs.
func TestTokens(t *testing.T) {
	signer := jwttest.New("one", jose.ES256)
	token := func(scope, subject string) string {
		return "Bearer " + signer.Token(issuer, time.Now(), map[string]any{"aud": "shop", "scope": scope, "sub": subject})
	}
	logged := make(logLines, 1000)
	own := newProxy(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(logged, nil)) })
	own.apply(service("web", wire.ProtocolHTTP, server(t, echo))...)
	own.apply(authorization(believing(namespace, signer)))
	h := newHop(t, 2, wire.ProtocolHTTP)
	far := h.policed(retries(3, 0, http.StatusUnauthorized), wire.ProtocolHTTP, server(t, echo))
	for _, peer := range h.peers {
		peer.apply(authorization(believing(stock, signer)))
	}
	expired := "Bearer " + signer.Sign(map[string]any{"iss": issuer, "aud": "shop", "scope": "read", "exp": 1}, nil)
	for address, side := range map[string]string{own.listen(key("web")): "own namespace", far: "over the hop"} {
		for name, tc := range map[string]struct {
			method, target, authorization string
			status                        int
			challenge                     string
			why                           reason.Reason
		}{
			"allowed by a claim":          {http.MethodGet, "/", token("read", "alice"), 200, "", ""},
			"allowed by an expression":    {http.MethodPost, "/", token("write", "alice"), 200, "", ""},
			"of another subject":          {http.MethodPost, "/", token("write", "bob"), 403, "", reason.AuthorizationDenied},
			"of another scope":            {http.MethodPost, "/", token("read", "alice"), 403, "", reason.AuthorizationDenied},
			"without a token":             {http.MethodGet, "/", "", 401, "Bearer", reason.TokenRequired},
			"with something else":         {http.MethodGet, "/", "Basic YTpi", 401, "Bearer", reason.TokenRequired},
			"with an expired token":       {http.MethodGet, "/", expired, 401, `Bearer error="invalid_token"`, reason.InvalidToken},
			"that needs no token":         {http.MethodGet, "/public", "", 200, "", ""},
			"that needs no invalid token": {http.MethodGet, "/public", "Bearer opaque", 401, `Bearer error="invalid_token"`, reason.InvalidToken},
		} {
			req := request(t, tc.method, address, tc.target, nil)
			req.Header["X-User"] = []string{"alice"}
			req.Header["x_user"] = []string{"root"}
			if tc.authorization != "" {
				req.Header.Set("Authorization", tc.authorization)
			}
			got := do(t, client(t), req)
			if got.status != tc.status || got.header.Get("WWW-Authenticate") != tc.challenge || got.reason() != string(tc.why) {
				t.Errorf("%s, %s: %s %q", side, name, got, got.header.Get("WWW-Authenticate"))
			}
			users := strings.Count(strings.ToLower(got.body), "x-user:") + strings.Count(strings.ToLower(got.body), "x_user:")
			if want := strings.Count(got.body, "X-User: alice\n"); tc.status == 200 && (users != want || (want == 1) != (tc.authorization != "")) {
				t.Errorf("%s, %s: the application got %s", side, name, got.body)
			}
		}
	}
	for len(logged) > 0 {
		if line := <-logged; strings.Contains(line, "eyJ") || strings.Contains(line, "opaque") {
			t.Errorf("a token is logged: %s", line)
		}
	}
}

// TestKeysThatAreNotKnown: nobody gets in with a token while its keys are missing, and others as ever.
func TestKeysThatAreNotKnown(t *testing.T) {
	signer := jwttest.New("one", jose.ES256)
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	policy := believing(namespace, signer)
	policy.Tokens.Issuers[0].Keys = ""
	p.apply(authorization(policy))
	address := p.listen(key("web"))
	send := func(target, authorization string) int {
		req := request(t, http.MethodGet, address, target, nil)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		return do(t, client(t), req).status
	}
	token := "Bearer " + signer.Token(issuer, time.Now(), map[string]any{"aud": "shop", "scope": "read"})
	if with, without := send("/", token), send("/public", ""); with != http.StatusUnauthorized || without != http.StatusOK {
		t.Errorf("with a token %d, without %d", with, without)
	}
	p.apply(authorization(believing(namespace, signer)))
	if got := send("/", token); got != http.StatusOK {
		t.Errorf("once the keys are there: %d", got)
	}
}

// TestClientsAskWhatHasDecided: those in the mesh are told, and nobody behind a gateway.
func TestClientsAskWhatHasDecided(t *testing.T) {
	h := newHop(t, 1, wire.ProtocolHTTP)
	far := h.policed(nil, wire.ProtocolHTTP, server(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header[upstream.FieldDebug]) > 0 {
			t.Error("the application is asked")
		}
		w.Header().Set(decisionHeader, "made up")
	}))
	allow := func(namespace string) wire.Resource {
		return authorization(wire.Authorization{Namespace: namespace, Name: "a", Action: wire.AuthorizationAllow, Rules: []wire.AuthorizationRule{
			only("nobody", "nobody"), {To: []wire.AuthorizationOperation{below("/open")}},
		}})
	}
	h.peers[0].apply(allow(stock))
	own := newProxy(t)
	own.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	own.apply(allow(namespace))
	for address, in := range map[string]string{far: stock, own.listen(key("web")): namespace} {
		for name, tc := range map[string]struct {
			target, want string
			header       []string
		}{
			"allowed":               {"/open", "allowed; policy=" + in + "/a; rule=1", []string{"weft-debug", "authorization"}},
			"denied":                {"/", "denied; policy=" + in + "/a", []string{"Weft-Debug", "authorization"}},
			"without asking":        {"/", "", nil},
			"asking something":      {"/", "", []string{"Weft-Debug", "everything"}},
			"from behind a proxy":   {"/", "", []string{"Weft-Debug", "authorization", "X-Forwarded-For", "192.0.2.1"}},
			"from behind another":   {"/open", "", []string{"Weft-Debug", "authorization", "Forwarded", "for=192.0.2.1"}},
			"from behind a cache":   {"/open", "", []string{"Weft-Debug", "authorization", "Via", "1.1 cache"}},
			"with a made-up answer": {"/open", "", []string{"Weft-Authorization", "allowed"}},
		} {
			req := request(t, http.MethodGet, address, tc.target, nil)
			for i := 0; i < len(tc.header); i += 2 {
				req.Header.Set(tc.header[i], tc.header[i+1])
			}
			if got := do(t, client(t), req); got.header.Get(decisionHeader) != tc.want {
				t.Errorf("%s in %s: %q, want %q", name, in, got.header.Get(decisionHeader), tc.want)
			}
		}
	}
}
