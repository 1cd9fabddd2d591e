package jwks

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/jwt/jwttest"
)

var set = jwttest.Set(jwttest.New("one", jose.ES256))

// allowed lets the tests reach servers on loopback.
func allowed(host string, plain bool, ca string) []meshv1alpha1.JWKSHost {
	return []meshv1alpha1.JWKSHost{{Host: host, PlainText: &plain, CABundle: ca}}
}

func bundle(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// TestFetchReachesOnlyWhatItMay: the address that is dialled counts, whatever its name and whoever led to it.
func TestFetchReachesOnlyWhatItMay(t *testing.T) {
	reached := make(chan string, 100)
	mux := http.NewServeMux()
	plain := httptest.NewServer(mux)
	defer plain.Close()
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	port := func(s *httptest.Server) string {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		return u.Port()
	}
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		reached <- r.Host
		for _, name := range []string{"Authorization", "Cookie", "Referer"} {
			if r.Header.Get(name) != "" {
				t.Errorf("the request has %s", name)
			}
		}
		fmt.Fprint(w, set)
	})
	redirect := func(path, to string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "a=b; Path=/")
			http.Redirect(w, r, to, http.StatusFound)
		})
	}
	redirect("/here", "/keys")
	redirect("/inside", "https://localhost:"+port(secure)+"/keys")
	redirect("/metadata", "https://169.254.169.254/latest/meta-data")
	redirect("/plain", plain.URL+"/keys")
	redirect("/user", "https://user:password@127.0.0.1:"+port(secure)+"/keys")
	redirect("/file", "file:///etc/passwd")
	redirect("/loop", "/loop")
	ca := bundle(secure)
	for name, tc := range map[string]struct {
		url   string
		hosts []meshv1alpha1.JWKSHost
		want  string
	}{
		"an allowed host":                  {secure.URL + "/keys", allowed("127.0.0.1", false, ca), ""},
		"a redirect within it":             {secure.URL + "/here", allowed("127.0.0.1", false, ca), ""},
		"plain text that is allowed":       {plain.URL + "/keys", allowed("127.0.0.1", true, ""), ""},
		"plain text":                       {plain.URL + "/keys", allowed("127.0.0.1", false, ""), "not https"},
		"loopback":                         {secure.URL + "/keys", nil, "no public address"},
		"a name of loopback":               {"https://localhost:" + port(secure) + "/keys", allowed("127.0.0.1", false, ca), "no public address"},
		"loopback, written otherwise":      {"https://[::ffff:127.0.0.1]:" + port(secure) + "/keys", nil, "no public address"},
		"a redirect to another name":       {secure.URL + "/inside", allowed("127.0.0.1", false, ca), "no public address"},
		"a redirect to a metadata service": {secure.URL + "/metadata", allowed("127.0.0.1", false, ca), "no public address"},
		"a redirect to plain text":         {secure.URL + "/plain", allowed("127.0.0.1", false, ca), "not https"},
		"a redirect with credentials":      {secure.URL + "/user", allowed("127.0.0.1", false, ca), "credentials"},
		"a redirect to a file":             {secure.URL + "/file", allowed("127.0.0.1", false, ca), "not https"},
		"redirects without end":            {secure.URL + "/loop", allowed("127.0.0.1", false, ca), "could not be fetched"},
		"a metadata service":               {"https://169.254.169.254/", nil, "no public address"},
		"the API server":                   {"https://10.96.0.1/openid/v1/jwks", nil, "no public address"},
		"an authority that is not trusted": {secure.URL + "/keys", allowed("127.0.0.1", false, ""), "no authority that is trusted"},
		"an authority that is none":        {secure.URL + "/keys", allowed("127.0.0.1", false, "none"), "holds no certificate"},
		"a certificate of another host":    {"https://localhost:" + port(secure) + "/keys", allowed("localhost", false, ca), "not valid for it"},
		"credentials":                      {"https://user@127.0.0.1:" + port(secure) + "/keys", allowed("127.0.0.1", false, ca), "credentials"},
		"another scheme":                   {"ftp://127.0.0.1/keys", allowed("127.0.0.1", true, ca), "not https"},
		"no URL":                           {"https://%zz", nil, "not a URL"},
	} {
		t.Run(name, func(t *testing.T) {
			for len(reached) > 0 {
				<-reached
			}
			got, err := Fetch(t.Context(), tc.url, tc.hosts)
			if tc.want == "" {
				if err != nil || got != set {
					t.Errorf("%q, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || got != "" {
				t.Errorf("%q, %v, want an error with %q", got, err, tc.want)
			}
			if err != nil && (strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "10.96")) {
				t.Errorf("the error tells of an address: %v", err)
			}
			if len(reached) > 0 {
				t.Errorf("%s was reached", <-reached)
			}
		})
	}
}

func TestFetchIsBounded(t *testing.T) {
	ended := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, set+strings.Repeat(" ", maxSet))
	})
	mux.HandleFunc("/zipped", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Error("an encoded answer is asked for")
		}
		w.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(w, "\x1f\x8b")
	})
	mux.HandleFunc("/header", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", maxHeader))
		fmt.Fprint(w, set)
	})
	mux.HandleFunc("/gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(ended) })
	s := httptest.NewServer(mux)
	defer s.Close()
	hosts := allowed("127.0.0.1", true, "")
	for path, want := range map[string]string{"/long": "longer than", "/zipped": "not a JSON Web Key Set", "/header": "could not be fetched", "/gone": "the answer is 410", "/page": "not a JSON Web Key Set", "/silent": ""} {
		if got, err := Fetch(t.Context(), s.URL+path, hosts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	<-ended
	s.Close()
	if _, err := Fetch(t.Context(), s.URL+"/keys", hosts); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody is there: %v", err)
	}
}

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "2606:4700:4700::1111": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "::": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false,
		"172.31.255.255": false, "172.32.0.1": true, "192.168.1.1": false, "169.254.169.254": false, "100.100.100.200": false, "fd00:ec2::254": false,
		"fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "ff02::1": false, "224.0.0.1": false, "255.255.255.255": false, "::ffff:10.0.0.1": false,
		"::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false, "2002:7f00:1::": false, "::127.0.0.1": false, "2001::1": false, "198.18.0.1": false,
		"192.0.0.192": false, "203.0.113.1": false, "2001:db8::1": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if public(netip.Addr{}) {
		t.Error("no address is public")
	}
}
