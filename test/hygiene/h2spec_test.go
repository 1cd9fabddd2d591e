package hygiene_test

import (
	"crypto/tls"
	"encoding/xml"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"weft.dev/weft/proxy/tcp"
	"weft.dev/weft/proxy/wire"
)

// h2specCases is how many cases h2spec 2.2.1 has, in strict mode.
const h2specCases = 146

// h2specFails are the cases that fail everywhere, and why.
var h2specFails = map[string]string{
	"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                            "net/http ends a connection whose SETTINGS name a setting twice, which no client does",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                       "net/http answers 400 where a reset of the stream is wanted; nothing is forwarded",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "net/http answers 400 where a reset of the stream is wanted; nothing is forwarded",
}

// TestH2spec runs the public test suite of HTTP/2 in strict mode. Cases fail that are listed, and no others.
func TestH2spec(t *testing.T) {
	for name, tc := range map[string]struct {
		secure bool
		fails  map[string]string
	}{
		"h2c": {fails: map[string]string{
			"http2/3.5: Sends invalid connection preface": "what does not begin with the preface is HTTP/1 there, and answered 400 as such",
		}},
		"TLS": {secure: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := kinds[0]
			k.hop = tc.secure
			p := k.start(t)
			var address string
			if tc.secure {
				address = p.relayed(t)
			} else {
				address = p.service(t, "h2spec", newBackend(t, named).address, wire.ProtocolHTTP)
			}
			passed, failed := h2spec(t, address, tc.secure)
			listed := maps.Clone(h2specFails)
			maps.Copy(listed, tc.fails)
			for _, id := range failed {
				if listed[id] == "" {
					t.Errorf("%s fails", id)
				}
			}
			for id, why := range listed {
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

// relayed returns where clients without a certificate reach the hop as if they had one: h2spec has none.
func (p *plane) relayed(t *testing.T) string {
	t.Helper()
	certificate := p.ca.Issue(t, near, "h2spec")
	pair, err := tls.X509KeyPair([]byte(certificate.Chain), []byte(certificate.Key))
	if err != nil {
		t.Fatalf("read the certificate: %v", err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // whose port it is was said by its address
	}
	l := tls.NewListener(listen(t), config)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				to, err := tls.Dial("tcp", p.hop, config)
				if err != nil {
					_ = from.Close()
					return
				}
				// Either end ends both.
				_, _ = tcp.Relay(t.Context(), from, to, tcp.Options{})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
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
