package authz_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// backend is a server of others, that answers with the path as it understands it.
type backend struct {
	name, program string
	arguments     func(dir string) []string
	// config is given the directory and the port.
	config string
	// read returns the path.
	read func(res *http.Response, body []byte) string
}

var backends = []backend{
	{
		"nginx", "nginx", func(dir string) []string { return []string{"-p", dir, "-c", dir + "/config"} }, `
daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/errors;
events { worker_connections 64; }
http {
  access_log off; keepalive_requests 1000000; large_client_header_buffers 4 16k;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen 127.0.0.1:%[2]d; default_type text/plain; location / { return 200 "$uri"; } }
}
`, func(_ *http.Response, body []byte) string { return string(body) },
	},
	{
		"Apache", "apache2", func(dir string) []string { return []string{"-d", dir, "-f", dir + "/config", "-X"} }, `
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
ServerName localhost
Listen 127.0.0.1:%[2]d
PidFile %[1]s/pid
DefaultRuntimeDir %[1]s
ErrorLog %[1]s/errors
User nobody
Group nogroup
DocumentRoot %[1]s/root
AllowEncodedSlashes On
MaxKeepAliveRequests 0
Header always set X-Uri "expr=<%%{REQUEST_URI}>"
`, func(res *http.Response, _ []byte) string { // whitespace at the end belongs to it
			return strings.TrimSuffix(strings.TrimPrefix(res.Header.Get("X-Uri"), "<"), ">")
		},
	},
}

// start runs the server until the test ends, and returns its address.
func (b *backend) start(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	// Apache serves as somebody else.
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // it holds nothing that is secret
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/root", 0o755); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is one of TCP
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/config", fmt.Appendf(nil, b.config, dir, port))
	program, err := exec.LookPath(b.program)
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/" + b.program); err != nil {
			t.Fatalf("%v: make packages installs it", err)
		}
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, b.arguments(dir)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	address := "127.0.0.1:" + strconv.Itoa(port)
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return address
		}
		select {
		case err := <-ended:
			ended <- err
			log, _ := os.ReadFile(dir + "/errors")
			t.Fatalf("%s ended: %v\n%s%s", b.name, err, said.String(), log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not serve: %v", b.name, err)
		}
	}
}

// spellings are targets that may lead below a prefix, with an escape in them.
func spellings(escape string) []string {
	return []string{
		"/" + escape + "admin/x", "/" + escape + "/admin/x", "/admin" + escape + "x", "/admin" + escape, "/ad" + escape + "min/x", "/" + escape + "dmin/x",
		"/public/.." + escape + "admin/x", "/public" + escape + ".." + escape + "admin/x", "/public/" + escape + escape + "/admin/x", "/public/" + escape + "./admin/x",
		"/./" + escape + "/admin/x", "//" + escape + "admin/x", "/public;" + escape + "/../admin/x", "/admin;" + escape + "/x", "/public/..;" + escape + "/admin/x",
		"/admi" + escape + "/x", "/a/b" + escape + "../../admin/x", `/public\..` + escape + "admin/x",
	}
}

// TestRealBackends: no request reaches a path that a policy denies as the backend understands it, however it is
// written.
func TestRealBackends(t *testing.T) {
	below := []wire.AuthorizationOperation{{Paths: []wire.PathPattern{{Type: wire.PathPrefix, Value: "/admin"}}}}
	public := []wire.AuthorizationOperation{{Paths: []wire.PathPattern{{Type: wire.PathPrefix, Value: "/public"}, {Type: wire.PathTemplate, Value: "/a/{*}"}}}}
	policies := map[string]authz.Policies{}
	for name, a := range map[string]*wire.Authorization{
		"denies the prefix": {Name: "a", Action: wire.AuthorizationDeny, Rules: []wire.AuthorizationRule{{To: below}}},
		"allows others":     {Name: "a", Action: wire.AuthorizationAllow, Rules: []wire.AuthorizationRule{{To: public}}},
	} {
		policies[name] = authz.NewPolicies(compiled(t, []*wire.Authorization{a}))
	}
	for i := range backends {
		b := &backends[i]
		t.Run(b.name, func(t *testing.T) {
			address := b.start(t)
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			// understood are the paths that the backend has told, by how they were sent.
			understood := map[string]string{}
			ask := func(path string) string {
				if known, ok := understood[path]; ok {
					return known
				}
				decoded, err := url.PathUnescape(path)
				if err != nil {
					t.Fatalf("%q: %v", path, err)
				}
				// It is written as the proxy writes it.
				req := &http.Request{
					Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: address, Path: decoded, RawPath: path}, Host: "web", Header: http.Header{},
				}
				res, err := transport.RoundTrip(req.WithContext(t.Context()))
				if err != nil {
					t.Fatalf("%q: %v", path, err)
				}
				defer func() { _ = res.Body.Close() }()
				body, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatalf("%q: %v", path, err)
				}
				understood[path] = b.read(res, body)
				return understood[path]
			}
			if got := ask("/public/../%61dmin/x"); got != "/admin/x" {
				t.Fatalf("it understands %q", got)
			}
			sent, reached := 0, 0
			for c := range 256 {
				for _, escape := range []string{fmt.Sprintf("%%%02x", c), fmt.Sprintf("%%%02X", c)} {
					for _, target := range spellings(escape) {
						// What is refused, and what is normalised, is what the proxy refuses and forwards.
						path, err := phttp.NormalizePath(target)
						if err != nil {
							continue
						}
						for name, policy := range policies {
							decision := policy.Decide(&authz.Request{Service: "web", HTTP: &phttp.Request{Method: http.MethodGet, Path: path}})
							if decision.Verdict == authz.Denied {
								continue
							}
							sent++
							seen := ask(path)
							if seen != "" {
								reached++
							}
							if seen == "/admin" || strings.HasPrefix(seen, "/admin/") {
								t.Errorf("a policy that %s lets %q through, which is %q to %s", name, target, seen, b.name)
							}
						}
					}
				}
			}
			// A backend that says nothing would prove nothing.
			if reached < 1000 {
				t.Errorf("%s has told the path of %d of %d requests", b.name, reached, sent)
			}
			t.Logf("%d requests let through, %d paths, none below the prefix", sent, len(understood))
		})
	}
}
