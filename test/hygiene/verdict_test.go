package hygiene_test

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"weft.dev/weft/test/hygiene/corpus"
)

var update = flag.Bool("update", false, "rewrite the lists of what engines are lenient about")

// TestMain lets many cases wait at the same time: most of what they take is the pause of net/http before it
// closes a connection.
func TestMain(m *testing.M) {
	flag.Parse()
	log.SetOutput(io.Discard) // where net/http tells of each poisoned connection
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// verdict is what was seen of a case, held against what the RFC allows and what our own engine does.
type verdict struct {
	name, seen string
	rule       corpus.Rule
	must, weft bool
}

// ledger holds the verdicts on one kind.
type ledger struct {
	kind kind
	mu   sync.Mutex
	// lenient are cases in which the outcome is one that the RFC allows and our own engine does not have.
	lenient []string
}

// judge fails the test unless the outcome is one that the RFC allows, or a breach that is listed.
func (l *ledger) judge(t *testing.T, v verdict) {
	t.Helper()
	why, listed := l.kind.breaks[v.name]
	switch {
	case v.must && listed:
		t.Errorf("%s is kept, but listed as broken: %s", v.rule.Clause, why)
	case !v.must && !listed:
		t.Errorf("%s: %s\ngot %s", v.rule.Clause, v.rule.Says, v.seen)
	}
	if v.must && !v.weft {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !slices.Contains(l.lenient, v.name) {
			l.lenient = append(l.lenient, v.name)
		}
	}
}

// compare holds what the kind is lenient about to its list, so that no case becomes lenient, or strict,
// without being noticed.
func (l *ledger) compare(t *testing.T, about string) {
	t.Helper()
	file := filepath.Join("testdata", strings.ReplaceAll(l.kind.name, " ", "-")+"-"+about+".txt")
	slices.Sort(l.lenient)
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(l.lenient, "\n")+"\n"), 0o644); err != nil {
			t.Fatalf("update: %v", err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatalf("read the list: %v", err)
	}
	listed := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
	for _, name := range l.lenient {
		if !slices.Contains(listed, name) {
			t.Errorf("%q: it is lenient, which %s does not list", name, file)
		}
	}
	for _, name := range listed {
		if name != "" && !slices.Contains(l.lenient, name) {
			t.Errorf("%q: it is as strict as our own engine must be, but %s lists it; -update rewrites the list", name, file)
		}
	}
}

func TestCorpusIsWhole(t *testing.T) {
	seen := map[string]bool{}
	check := func(group, name string, rule corpus.Rule, must, weft int) {
		id := group + name
		if seen[id] {
			t.Errorf("there are two cases %q", name)
		}
		seen[id] = true
		if rule.Clause == "" || rule.Says == "" || must == 0 || weft == 0 {
			t.Errorf("%q lacks clause, rule or outcome", name)
		}
	}
	for _, c := range corpus.Requests() {
		check("request", c.Name, c.Rule, len(c.Must), len(c.Weft))
	}
	for _, c := range corpus.Responses() {
		check("response", c.Name, c.Rule, len(c.Must), len(c.Weft))
	}
	if len(seen) < 250 {
		t.Errorf("%d cases, want at least 250", len(seen))
	}
}

// TestVerdictsCanFail holds outcomes that must not be to the cases that they break.
func TestVerdictsCanFail(t *testing.T) {
	byName := map[string]corpus.Request{}
	for _, c := range corpus.Requests() {
		byName[c.Name] = c
	}
	plain := &message{line: "GET / HTTP/1.1", fields: []field{{"host", "h"}}}
	ok := &message{line: "HTTP/1.1 200 OK", body: "GET /"}
	smuggled := &message{line: "GET /smuggled HTTP/1.1", fields: []field{{"host", "h"}}}
	for name, o := range map[string]observed{
		"two hosts":         {arrived: []*message{plain}, answers: []*message{ok}, canary: true},
		"no Host":           {ended: true},
		"a plain request":   {arrived: []*message{plain, smuggled}, answers: []*message{ok, ok}, canary: true},
		"HTTP/1.0":          {arrived: []*message{plain}, answers: []*message{ok}, canary: true},
		"a dot segment":     {arrived: []*message{plain}, answers: []*message{ok}, canary: true},
		"no version":        {partly: true, ended: true},
		"a size with 0x":    {canary: true},
		"Connection: close": {arrived: []*message{plain}, answers: []*message{ok}, canary: true},
	} {
		if c, ok := byName[name]; !ok || o.fits(c.Must) {
			t.Errorf("%q: %v is no failure", name, o)
		}
	}
	complete := corpus.Received{Message: corpus.Message{Line: "200", Body: "hello"}}
	for name, o := range map[string]obtained{
		"cut":    {final: &message{line: "HTTP/1.1 200 OK", body: "hello"}, cut: true},
		"body":   {final: &message{line: "HTTP/1.1 200 OK", body: "hell"}},
		"code":   {final: &message{line: "HTTP/1.1 502 x", body: "hello"}},
		"nobody": {cut: true},
	} {
		if o.fits([]corpus.Received{complete}) {
			t.Errorf("%s: %v is no failure", name, o)
		}
	}
	if complete.Single = true; (obtained{final: &message{line: "HTTP/1.1 200 OK", body: "hello"}, shared: true}).fits([]corpus.Received{complete}) {
		t.Error("a connection that was shared is no failure")
	}
}

// brief shows the beginning of a list of messages.
func brief(messages []*message) string {
	var out strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&out, "%.200q %.300q body %.100q; ", m.line, m.fields, m.body)
	}
	return out.String()
}
