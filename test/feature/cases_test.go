package feature_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/test/feature/harness"
)

// scenario is the document of kind Requests that ends a case.
type scenario struct {
	metav1.TypeMeta `json:",inline"`
	// Status lists the conditions of routes and policies that are not what those without a flaw have, as
	// "Kind namespace/name: Type=Status Reason".
	Status   []string  `json:"status,omitempty"`
	Requests []request `json:"requests"`
}

// request is what a client sends, once or several times, and what it must see.
type request struct {
	// Name says what is special about it; it is the test's name.
	Name string `json:"name"`
	// From is the client's namespace, To what it calls, "host" or "host:port".
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Protocol is "HTTP/1.1", "h2c" or "gRPC"; Path holds the query too and, of gRPC, the full method.
	Protocol string            `json:"protocol,omitempty"`
	Method   string            `json:"method,omitempty"`
	Path     string            `json:"path,omitempty"`
	Host     string            `json:"host,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
	Body     string            `json:"body,omitempty"`
	// Times is how often it is sent.
	Times int `json:"times,omitempty"`

	Want want `json:"want"`
}

// want says what must be seen of each request; Split, Statuses and Copies of all of them.
type want struct {
	// Status is 200 unless the case says so. Of gRPC it is the code, "OK" by default.
	Status int    `json:"status,omitempty"`
	Code   string `json:"code,omitempty"`
	// Reason is why the proxy answered itself.
	Reason string `json:"reason,omitempty"`
	// Pod is the one that answered.
	Pod string `json:"pod,omitempty"`
	// Split gives the percentage of each pod, Statuses that of each status.
	Split    map[string]int `json:"split,omitempty"`
	Statuses map[string]int `json:"statuses,omitempty"`
	// Headers are those of the answer; null means that there is none.
	Headers map[string]*string `json:"headers,omitempty"`
	// Saw is what reached the pod that answered.
	Saw *saw `json:"saw,omitempty"`
	// Copies is how many requests reached pods that did not answer; CopySaw what one of them saw.
	Copies  map[string]int `json:"copies,omitempty"`
	CopySaw *saw           `json:"copySaw,omitempty"`
}

// saw is the part of an Echo that a case looks at.
type saw struct {
	Protocol string             `json:"protocol,omitempty"`
	Method   string             `json:"method,omitempty"`
	Host     string             `json:"host,omitempty"`
	Target   string             `json:"target,omitempty"`
	Body     string             `json:"body,omitempty"`
	Headers  map[string]*string `json:"headers,omitempty"`
}

// tolerance is how many percentage points a split may be off: with evenly spread choices, a rounding.
const tolerance = 1.0

func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/[^_]*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			objects, s := readCase(t, file)
			m := start(t)
			applied := apply(t, m, objects)
			if diff := cmp.Diff(s.Status, flaws(applied.Compiled)); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			for i := range s.Requests {
				r := &s.Requests[i]
				r.setDefaults()
				t.Run(r.Name, func(t *testing.T) { r.run(t, m) })
			}
		})
	}
}

// readCase reads the objects of a case on top of the defaults, and what is sent.
func readCase(t *testing.T, file string) (compile.Snapshot, scenario) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if content[0] != '#' {
		t.Error("a case begins with a comment that says what it is about")
	}
	documents, err := harness.Documents(content)
	if err != nil {
		t.Fatal(err)
	}
	objects := defaults(t)
	for _, document := range documents[:len(documents)-1] {
		if err := harness.Decode(document, &objects); err != nil {
			t.Fatal(err)
		}
	}
	var s scenario
	if err := yaml.UnmarshalStrict(documents[len(documents)-1], &s); err != nil {
		t.Fatal(err)
	}
	if s.Kind != "Requests" || len(s.Requests) == 0 {
		t.Fatal("a case ends with a document of kind Requests that has some")
	}
	return objects, s
}

// flaws are the conditions that a route or policy without a flaw does not have.
func flaws(result compile.Result) []string {
	var out []string
	for _, route := range result.Routes {
		for _, parent := range route.Parents {
			for _, c := range parent.Conditions {
				if c.Status != metav1.ConditionTrue || c.Reason != c.Type {
					out = append(out, fmt.Sprintf("%s %s: %s=%s %s", route.Kind, route.Name, c.Type, c.Status, c.Reason))
				}
			}
		}
	}
	for _, policy := range result.Policies {
		if c := policy.Accepted; c.Status != metav1.ConditionTrue {
			out = append(out, fmt.Sprintf("MeshPolicy %s: %s=%s %s", policy.Name, c.Type, c.Status, c.Reason))
		}
	}
	for _, policy := range result.Authorizations {
		if c := policy.Accepted; c.Status != metav1.ConditionTrue {
			out = append(out, fmt.Sprintf("MeshAuthorization %s: %s=%s %s", policy.Name, c.Type, c.Status, c.Reason))
		}
	}
	return out
}

func (r *request) setDefaults() {
	setDefault(&r.From, "shop")
	setDefault(&r.Times, 1)
	setDefault(&r.Protocol, "HTTP/1.1")
	if r.Protocol == "gRPC" {
		setDefault(&r.To, "web:9000")
		setDefault(&r.Want.Code, "OK")
		return
	}
	setDefault(&r.To, "web")
	setDefault(&r.Method, "GET")
	setDefault(&r.Path, "/")
	setDefault(&r.Want.Status, 200)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// run sends the request as often as it says and compares what is seen.
func (r *request) run(t *testing.T, m *harness.Mesh) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	before := map[string]int{}
	for name := range r.Want.Copies {
		before[name] = pod(t, m, name).Requests()
	}
	send := r.sender(ctx, t, m)
	answers := make([]answer, r.Times)
	for i := range answers {
		answers[i] = send()
	}
	for _, a := range answers {
		r.check(t, a)
		if t.Failed() {
			break
		}
	}
	if r.Want.Split != nil {
		checkShares(t, "split", r.Want.Split, answers, func(a answer) string { return a.echo.Pod })
	}
	if r.Want.Statuses != nil {
		checkShares(t, "statuses", r.Want.Statuses, answers, func(a answer) string { return strconv.Itoa(a.status) })
	}
	for name, copies := range r.Want.Copies {
		checkCopies(ctx, t, pod(t, m, name), before[name]+copies, r.Want.CopySaw)
	}
}

// check compares one answer.
func (r *request) check(t *testing.T, a answer) {
	t.Helper()
	switch {
	case r.Protocol == "gRPC":
		if a.code != r.Want.Code {
			t.Errorf("code %s (%s), want %s", a.code, a.message, r.Want.Code)
		}
	case r.Want.Statuses == nil && a.status != r.Want.Status:
		t.Errorf("status %d (%s %s), want %d", a.status, a.header.Get("weft-reason"), a.body, r.Want.Status)
	}
	if r.Want.Reason != "" || a.status < 500 && r.Want.Statuses == nil {
		if got := a.header.Get("weft-reason"); got != r.Want.Reason {
			t.Errorf("reason %q, want %q", got, r.Want.Reason)
		}
	}
	if r.Want.Pod != "" && a.echo.Pod != r.Want.Pod {
		t.Errorf("answered by %q (status %d %s), want %q", a.echo.Pod, a.status, a.header.Get("weft-reason"), r.Want.Pod)
	}
	checkHeaders(t, "answer", r.Want.Headers, a.header)
	if r.Want.Saw != nil {
		r.Want.Saw.check(t, a.echo)
	}
}

func (s *saw) check(t *testing.T, e harness.Echo) {
	t.Helper()
	for what, pair := range map[string][2]string{
		"protocol": {s.Protocol, e.Protocol}, "method": {s.Method, e.Method}, "host": {s.Host, e.Host},
		"target": {s.Target, e.Target}, "body": {s.Body, e.Body},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			t.Errorf("%s saw %s %q, want %q", e.Pod, what, pair[1], pair[0])
		}
	}
	checkHeaders(t, e.Pod+" saw", s.Headers, e.Header)
}

// checkHeaders compares fields, whose values are joined as a list if there are several.
func checkHeaders(t *testing.T, what string, want map[string]*string, got map[string][]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		values := headerValues(got, name)
		switch {
		case want[name] == nil && len(values) > 0:
			t.Errorf("%s: header %s is %q, want none", what, name, values)
		case want[name] != nil && len(values) == 0:
			t.Errorf("%s: no header %s, want %q", what, name, *want[name])
		case want[name] != nil && strings.Join(values, ", ") != *want[name]:
			t.Errorf("%s: header %s is %q, want %q", what, name, values, *want[name])
		}
	}
}

func headerValues(header map[string][]string, name string) []string {
	var values []string
	for _, key := range slices.Sorted(maps.Keys(header)) {
		if strings.EqualFold(key, name) {
			values = append(values, header[key]...)
		}
	}
	return values
}

// checkShares compares percentages of answers.
func checkShares(t *testing.T, what string, want map[string]int, answers []answer, of func(answer) string) {
	t.Helper()
	counts := map[string]int{}
	for _, a := range answers {
		counts[of(a)]++
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		got := 100 * float64(counts[name]) / float64(len(answers))
		if got < float64(want[name])-tolerance || got > float64(want[name])+tolerance ||
			want[name] == 0 && counts[name] > 0 {
			t.Errorf("%s: %.1f %% for %q, want %d %%", what, got, name, want[name])
		}
		delete(counts, name)
	}
	if len(counts) > 0 {
		t.Errorf("%s: others, too: %v", what, counts)
	}
}

// checkCopies waits until mirrored requests have arrived.
func checkCopies(ctx context.Context, t *testing.T, p *harness.Pod, total int, want *saw) {
	t.Helper()
	if err := p.Await(ctx, total); err != nil {
		t.Error(err)
	}
	if got := p.Requests(); got > total {
		t.Errorf("%d requests reached %s, want %d", got, p.Name, total)
	}
	if want != nil {
		want.check(t, p.Last())
	}
}

// pod returns the pod of that name, whatever its namespace.
func pod(t *testing.T, m *harness.Mesh, name string) *harness.Pod {
	t.Helper()
	for _, p := range m.Pods() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("there is no pod %s", name)
	return nil
}
