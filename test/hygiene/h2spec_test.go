package hygiene_test

import (
	"crypto/tls"
	"encoding/xml"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

// h2specCases is how many cases h2spec 2.2.1 has, in strict mode.
const h2specCases = 146

// noPreface is the one case that fails whoever speaks HTTP/2 behind.
const noPreface = "http2/3.5: Sends invalid connection preface"

// h2specFails are the cases that fail with net/http, and why; with our own only the first does.
var h2specFails = map[string]string{
	noPreface: "what does not begin with the preface is HTTP/1, and answered 400 as such",
	"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                            "net/http ends a connection whose SETTINGS name a setting twice, which no client does",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                       "net/http answers 400 where a reset of the stream is wanted; nothing is forwarded",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "net/http answers 400 where a reset of the stream is wanted; nothing is forwarded",
}

// TestH2spec runs the public test suite of HTTP/2 in strict mode. Cases fail that are listed, and no others.
func TestH2spec(t *testing.T) {
	for name, tc := range map[string]struct {
		kind   string
		secure bool
		fails  map[string]string
	}{
		"std, h2c":  {"std", false, h2specFails},
		"std, TLS":  {"std", true, h2specFails},
		"weft, h2c": {"weft", false, map[string]string{noPreface: h2specFails[noPreface]}},
		"weft, TLS": {"weft", true, map[string]string{noPreface: h2specFails[noPreface]}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := kindOf(tc.kind).start(t)
			address := p.service(t, "h2spec", newBackend(t, named).address, wire.ProtocolHTTP)
			if tc.secure {
				address = p.secured(t, "h2spec")
			}
			passed, failed := h2spec(t, address, tc.secure)
			for _, id := range failed {
				if tc.fails[id] == "" {
					t.Errorf("%s fails", id)
				}
			}
			for id, why := range tc.fails {
				if !slices.Contains(failed, id) {
					t.Errorf("%s passes, but is listed as one that fails: %s", id, why)
				}
			}
			if passed+len(failed) != h2specCases {
				t.Errorf("%d cases pass and %d fail, want %d in all", passed, len(failed), h2specCases)
			}
		})
	}
}

// secured returns where clients of a service come over TLS. The mesh port itself answers no request without
// the metadata of the hop, which h2spec cannot send, and its HTTP/2 is the same.
func (p *plane) secured(t *testing.T, name string) string {
	t.Helper()
	certificate := identitytest.NewCA(t, "cluster.local").Issue(t, near, "server")
	pair, err := tls.X509KeyPair([]byte(certificate.Chain), []byte(certificate.Key))
	if err != nil {
		t.Fatalf("read the certificate: %v", err)
	}
	l := tls.NewListener(listen(t), &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
	})
	key := wire.ServicePortKey(p.namespace, name, 80)
	serve(t, l, func() error { return p.client.ServeCaptured(engine.Direct(l, key)) })
	return l.Addr().String()
}

// report is what h2spec writes.
type report struct {
	Groups []struct {
		Package string `xml:"package,attr"`
		Cases   []struct {
			Name    string    `xml:"classname,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// h2spec returns how many cases pass, and which fail.
func h2spec(t *testing.T, address string, secure bool) (passed int, failed []string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.xml")
	// It waits less than what the proxy takes to ask silent peers for a sign of life: h2spec gives none, and
	// would take the end of the connection for an answer.
	args := []string{"tool", "-modfile=tools/h2spec/go.mod", "h2spec", "-S", "-o", "5", "-h", host, "-p", port, "-j", file}
	if secure {
		args = append(args, "-t", "-k")
	}
	run := exec.CommandContext(t.Context(), "go", args...)
	run.Dir = filepath.Join("..", "..")
	// It fails if a case does; the report says which.
	output, _ := run.CombinedOutput()
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("h2spec has written nothing: %v\n%s", err, output)
	}
	var r report
	if err := xml.Unmarshal(written, &r); err != nil {
		t.Fatalf("read the report: %v", err)
	}
	for _, g := range r.Groups {
		for _, c := range g.Cases {
			switch {
			case c.Failure != nil || c.Error != nil:
				failed = append(failed, g.Package+": "+c.Name)
			case c.Skipped == nil:
				passed++
			}
		}
	}
	t.Logf("%d passed, %d failed", passed, len(failed))
	return passed, failed
}
