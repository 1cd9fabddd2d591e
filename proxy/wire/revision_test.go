package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recorded reads messages that a release of revision 0 has sent, one a line.
func recorded[T any](t *testing.T, file string) []T {
	t.Helper()
	data, err := os.ReadFile("testdata/revision0/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var messages []T
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m T
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		messages = append(messages, m)
	}
	return messages
}

// TestWhatTheLastReleaseSends: a proxy reads what an operator of revision 0 has sent, its routes' timeouts and retries
// among it.
func TestWhatTheLastReleaseSends(t *testing.T) {
	deltas := recorded[ServerMessage](t, "server.jsonl")
	kinds := map[Kind]int{}
	policies := map[string]string{}
	for _, m := range deltas {
		for _, r := range m.Delta.Upserted {
			kinds[r.Kind]++
			if err := r.Valid(); err != nil {
				t.Error(err)
			}
			if r.Needs() != 0 {
				t.Errorf("%s needs revision %d", r.Ref, r.Needs())
			}
			if r.Route != nil && r.Route.Policy != nil {
				said, err := json.Marshal(r.Route.Policy)
				if err != nil {
					t.Fatal(err)
				}
				policies[string(said)] = r.Key
			}
		}
	}
	for _, kind := range []Kind{KindMesh, KindDestination, KindRoute, KindBackend, KindEndpoints, KindProxies, KindWorkload, KindCapture} {
		if kinds[kind] == 0 {
			t.Errorf("nothing of kind %s was recorded", kind)
		}
	}
	for _, want := range []string{
		`{"timeouts":{"request":"1m30s","backendRequest":"500ms"}}`,
		`{"retry":{"attempts":3,"codes":[429,500,503],"methods":"All","backoff":"100ms"}}`,
		`{"retry":{"attempts":0}}`,
	} {
		if policies[want] == "" {
			t.Errorf("no route says %s: %v", want, policies)
		}
	}
	if last := deltas[len(deltas)-1].Delta; len(last.Removed) != 1 || last.Seq != 99 {
		t.Errorf("the last delta is %+v", last)
	}
}

// TestWhatTheLastReleaseReports: an operator reads what clients of revision 0 have sent.
func TestWhatTheLastReleaseReports(t *testing.T) {
	messages := recorded[ClientMessage](t, "client.jsonl")
	hello, ack, report := messages[0].Hello, messages[1].Ack, messages[2].Node
	if hello == nil || hello.Build == "" || len(hello.Held) == 0 || hello.Revision != 0 {
		t.Errorf("hello %+v", hello)
	}
	if ack == nil || ack.Seq != 1 || len(ack.Rejected) != 1 || ack.Rejected[0].Reason == "" {
		t.Errorf("ack %+v", ack)
	}
	if report == nil || !report.Full || len(report.Pods) != 4 || !report.Pods[0].Captured || report.Pods[1].Gap != Duration(time.Second) ||
		!report.Pods[3].Ended || !report.Canary.Captured {
		t.Fatalf("report %+v", report)
	}
	// It has no strict ports, and must not be taken for one that has proven them.
	if report.Canary.StrictEnforced || report.Pods[0].Inbound != "" {
		t.Errorf("an agent of revision 0 enforces strict ports: %+v", report)
	}
}

// TestRouteForTheLastRelease: timeouts and retries are where a proxy of revision 0 looks for them, as far as it can
// do what is asked.
func TestRouteForTheLastRelease(t *testing.T) {
	second, ten := new(Duration(time.Second)), new(Duration(10*time.Millisecond))
	for name, tc := range map[string]struct {
		policy *Policy
		// has is what the route has beside its policy, needs the revision of a proxy that does all of it.
		has   string
		needs int
	}{
		"nothing":       {},
		"timeouts":      {policy: &Policy{Timeouts: &Timeouts{Request: second, BackendRequest: ten}}, has: `"timeouts":{"request":"1s","backendRequest":"10ms"}`},
		"none":          {policy: &Policy{Timeouts: &Timeouts{Request: new(Duration)}}, needs: 1}, // it overrides the Service's
		"one of them":   {policy: &Policy{Timeouts: &Timeouts{Request: new(Duration), BackendRequest: ten}}, has: `"timeouts":{"backendRequest":"10ms"}`},
		"other":         {policy: &Policy{Timeouts: &Timeouts{Request: second, Idle: ten}}, has: `"timeouts":{"request":"1s"}`, needs: 1},
		"retries":       {policy: &Policy{Retry: &Retry{Attempts: new(2)}}, has: `"retry":{"attempts":2}`},
		"on codes":      {policy: &Policy{Retry: &Retry{Attempts: new(2), Codes: []int{503}, Methods: new(RetryAll), Backoff: ten}}, has: `"retry":{"attempts":2,"codes":[503],"backoff":"10ms"}`},
		"where safe":    {policy: &Policy{Retry: &Retry{Attempts: new(2), Codes: []int{503}}}, needs: 1},
		"with a budget": {policy: &Policy{Retry: &Retry{Attempts: new(2), Budget: &RetryBudget{Percent: new(20)}}}, has: `"retry":{"attempts":2}`, needs: 1},
		"rate limits":   {policy: &Policy{RateLimits: []RateLimit{{Requests: 1}}}, needs: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := New("r", ScopeMesh, Origin{}, &Route{Kind: RouteHTTP, Namespace: "shop", Name: "web", Policy: tc.policy})
			data, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			before := string(data)
			if at := strings.Index(before, `"policy":`); at >= 0 { // what follows is the policy itself and what stands beside it
				var content struct{ Route map[string]json.RawMessage }
				if err := json.Unmarshal(data, &content); err != nil {
					t.Fatal(err)
				}
				delete(content.Route, "policy")
				beside, err := json.Marshal(content.Route)
				if err != nil {
					t.Fatal(err)
				}
				before = string(beside)
			}
			if tc.has != "" && !strings.Contains(before, tc.has) || tc.has == "" && (strings.Contains(before, `"timeouts"`) || strings.Contains(before, `"retry"`)) {
				t.Errorf("beside its policy it has %s, want %q", before, tc.has)
			}
			if r.Needs() != tc.needs {
				t.Errorf("it needs revision %d, want %d", r.Needs(), tc.needs)
			}
			var back Resource
			if err := json.Unmarshal(data, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, back); diff != "" {
				t.Errorf("read again (-sent +got):\n%s", diff)
			}
		})
	}
}

func TestNeeds(t *testing.T) {
	policy := &Policy{}
	for name, tc := range map[string]struct {
		content any
		want    int
	}{
		"destination":             {&Destination{}, 0},
		"destination with policy": {&Destination{Policy: policy}, 1},
		"backend":                 {&Backend{}, 0},
		"backend with policy":     {&Backend{Policy: policy}, 1},
		"authorization":           {&Authorization{}, 1},
		"inbound":                 {&Inbound{}, 1},
		"proxies":                 {&Proxies{}, 0},
	} {
		r := New("k", ScopeMesh, Origin{}, tc.content)
		if got := r.Needs(); got != tc.want || got > Revision {
			t.Errorf("%s needs %d, want %d", name, got, tc.want)
		}
	}
}
