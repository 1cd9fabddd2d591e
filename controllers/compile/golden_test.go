package compile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

var update = flag.Bool("update", false, "rewrite the expectations of the golden cases")

// separator stands between the objects of a case and what they compile to. The whole file stays YAML.
const separator = "\n--- # compiled\n"

// differ compares two values of one type. cmp alone would take most of the time of these tests.
func differ[T any](want, got T) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}))
}

// golden is what a case expects: everything in the Result that the defaults alone do not bring.
type golden struct {
	// Refused is what the schemas of the Gateway API refuse, so that the objects can only come from a
	// file or from an older API server.
	Refused []string `json:"refused,omitempty"`
	// Enrolled is shown where it differs.
	Enrolled []string `json:"enrolled,omitempty"`
	Numbers  []string `json:"numbers,omitempty"`
	// Removed are resources of the defaults that are gone.
	Removed   []string         `json:"removed,omitempty"`
	Resources []goldenResource `json:"resources,omitempty"`
	Routes    []goldenRoute    `json:"routes,omitempty"`
	Policies  []goldenPolicy   `json:"policies,omitempty"`

	Authorizations []goldenAuthorization `json:"authorizations,omitempty"`
	// Strict are the strict ports: "namespace/service:port by objects: networks and ServiceAccounts let in".
	Strict []string `json:"strict,omitempty"`
	// Inbounds are what node agents are told of the pods of the case.
	Inbounds []goldenResource `json:"inbounds,omitempty"`
	// MeshFaults read "field: why".
	MeshFaults []string `json:"meshFaults,omitempty"`
}

type goldenPolicy struct {
	Policy   string         `json:"policy"`
	Target   string         `json:"target"`
	Summary  string         `json:"summary"`
	Enforced string         `json:"enforced,omitempty"`
	Targets  []goldenTarget `json:"targets,omitempty"`
	// Effective reads "field=value from origin", by target.
	Effective []goldenEffective `json:"effective,omitempty"`
	// InForce is shown where it is not the spec.
	InForce any `json:"inForce,omitempty"`
}

type goldenAuthorization struct {
	Authorization string         `json:"authorization"`
	Target        string         `json:"target"`
	Summary       []string       `json:"summary"`
	Targets       []goldenTarget `json:"targets,omitempty"`
}

type goldenTarget struct {
	Ref      gwv1.ParentReference `json:"ref"`
	Accepted string               `json:"accepted"`
	// Awaited reads "audience: resources".
	Awaited []string `json:"awaited,omitempty"`
}

type goldenEffective struct {
	Target string   `json:"target"`
	Fields []string `json:"fields"`
}

type goldenResource struct {
	Ref     string     `json:"ref"`
	Scope   wire.Scope `json:"scope"`
	Origin  string     `json:"origin"`
	Content any        `json:"content"`
}

type goldenRoute struct {
	Route   string         `json:"route"`
	Parents []goldenParent `json:"parents"`
}

type goldenParent struct {
	ParentRef gwv1.ParentReference `json:"parentRef"`
	// Conditions read "Type=Status Reason (generation): message".
	Conditions []string `json:"conditions"`
	Resources  []string `json:"resources,omitempty"`
	Audience   []string `json:"audience,omitempty"`
}

// TestGolden compiles each file of testdata on top of _defaults.yaml, in several orders of its objects,
// and compares the result with the file's last document.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/[^_]*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	base := defaults(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			runGolden(t, file, base)
		})
	}
}

func runGolden(t *testing.T, file string, base [][]byte) {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if content[0] != '#' {
		t.Error("a case begins with a comment that says why it exists")
	}
	input, want, _ := bytes.Cut(content, []byte(separator))
	snapshot, refused := admitAll(t, slices.Concat(base, splitDocuments(input)))
	unchanged := deepCopy(snapshot)
	result := compile.Compile(snapshot)
	if diff := differ(unchanged, snapshot); diff != "" {
		t.Errorf("Compile changed its input (-before +after):\n%s", diff)
	}
	for seed := range uint64(5) {
		again := compile.Compile(shuffled(snapshot, rand.New(rand.NewPCG(seed, 0))))
		if diff := differ(result, again); diff != "" {
			t.Fatalf("the order of lists matters (-first +shuffled):\n%s", diff)
		}
	}

	reference, _ := admitAll(t, base)
	expectation := difference(compile.Compile(reference), result)
	for i := range expectation.Policies {
		expectation.Policies[i].InForce = otherThanSpec(snapshot, result.Policies[i])
	}
	expectation.Refused = refused
	expectation.Inbounds = inboundsOf(t, input, result)
	got := render(t, expectation)
	if *update {
		content := slices.Concat(bytes.TrimRight(input, "\n"), []byte(separator), got)
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("compiled (-want +got):\n%s", diff)
	}
}

// render writes an expectation as YAML in the order of its fields: one line for what is small.
func render(t *testing.T, g golden) []byte {
	t.Helper()
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	style(&document)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(&document); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// style turns flow style, in which all of JSON is, into block style for everything that is large.
func style(node *yaml.Node) {
	node.Style = 0
	size := 0
	for _, child := range node.Content {
		style(child)
		size += weight(child)
	}
	if node.Kind != yaml.ScalarNode && size <= 120 {
		node.Style = yaml.FlowStyle
	}
}

func weight(node *yaml.Node) int {
	sum := len(node.Value) + 2
	for _, child := range node.Content {
		sum += weight(child)
	}
	return sum
}

func admitAll(t *testing.T, documents [][]byte) (snapshot compile.Snapshot, refused []string) {
	t.Helper()
	admitted := make([][]byte, len(documents))
	for i, document := range documents {
		// Strict before defaults are filled in: an unknown field is a mistake in the case.
		if _, err := readSnapshot(document); err != nil {
			t.Fatal(err)
		}
		var messages []string
		var err error
		if admitted[i], messages, err = admit(document); err != nil {
			t.Fatal(err)
		}
		refused = append(refused, messages...)
	}
	snapshot, err := readSnapshot(admitted...)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot, refused
}

// difference shows what b has that a does not.
func difference(a, b compile.Result) golden {
	var g golden
	if !slices.Equal(a.Enrolled, b.Enrolled) {
		g.Enrolled = append([]string{}, b.Enrolled...)
	}
	for key, number := range b.Numbers {
		if a.Numbers[key] != number {
			g.Numbers = append(g.Numbers, fmt.Sprintf("%s:%d = %d", key.UID, key.Port, number))
		}
	}
	slices.Sort(g.Numbers)
	before := make(map[wire.Ref]wire.Resource)
	for _, r := range a.Resources {
		before[r.Ref] = r
	}
	for _, r := range b.Resources {
		if old, ok := before[r.Ref]; !ok || old.Version != r.Version || old.Scope != r.Scope {
			g.Resources = append(g.Resources, show(r))
		}
		delete(before, r.Ref)
	}
	for ref := range before {
		g.Removed = append(g.Removed, ref.String())
	}
	slices.Sort(g.Removed)
	for _, f := range b.MeshFaults {
		g.MeshFaults = append(g.MeshFaults, f.Field+": "+f.Why)
	}
	for _, r := range b.Routes {
		g.Routes = append(g.Routes, showRoute(r))
	}
	for _, p := range b.Policies {
		g.Policies = append(g.Policies, showPolicy(p))
	}
	for i := range b.Exposures {
		if e := &b.Exposures[i]; e.Strict {
			g.Strict = append(g.Strict, fmt.Sprintf("%s by %s: %v %v", e.Key(), strings.Join(e.By, ", "), e.Allowed, e.Accounts))
		}
	}
	for _, a := range b.Authorizations {
		g.Authorizations = append(g.Authorizations, goldenAuthorization{
			Authorization: a.Name.String(), Target: a.Target,
			Summary: []string{showCondition(a.Accepted), showCondition(a.Enforced)}, Targets: showTargets(a.Targets),
		})
	}
	return g
}

func showPolicy(p compile.PolicyStatus) goldenPolicy {
	out := goldenPolicy{Policy: p.Name.String(), Target: p.Target, Summary: showCondition(p.Accepted), Targets: showTargets(p.Targets)}
	if p.Enforced != nil {
		out.Enforced = showCondition(*p.Enforced)
	}
	for _, e := range p.Effective {
		shown := goldenEffective{Target: e.Target, Fields: []string{}}
		for _, f := range e.Fields {
			shown.Fields = append(shown.Fields, f.Field+"="+f.Value+" from "+f.From)
		}
		out.Effective = append(out.Effective, shown)
	}
	return out
}

func showTargets(targets []compile.TargetStatus) []goldenTarget {
	var out []goldenTarget
	for _, t := range targets {
		shown := goldenTarget{Ref: t.Ref, Accepted: showCondition(t.Accepted)}
		for _, a := range t.Awaited {
			var refs []string
			for _, held := range a.Resources {
				refs = append(refs, held.String())
			}
			shown.Awaited = append(shown.Awaited, strings.Join(a.Audience, ",")+": "+strings.Join(refs, " "))
		}
		out = append(out, shown)
	}
	return out
}

// otherThanSpec shows what a policy is to have in force where that is not its spec.
func otherThanSpec(s compile.Snapshot, p compile.PolicyStatus) any {
	at := slices.IndexFunc(s.MeshPolicies, func(o *meshv1alpha1.MeshPolicy) bool {
		return o.Namespace == p.Name.Namespace && o.Name == p.Name.Name
	})
	switch {
	case p.InForce == nil:
		return "nothing"
	case reflect.DeepEqual(*p.InForce, s.MeshPolicies[at].Spec.TrafficPolicy):
		return nil
	default:
		return p.InForce
	}
}

func showCondition(c metav1.Condition) string {
	return fmt.Sprintf("%s=%s %s (%d): %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
}

func show(r wire.Resource) goldenResource {
	o := r.Origin
	origin := o.Kind + " " + o.Name
	if o.Namespace != "" {
		origin = o.Kind + " " + o.Namespace + "/" + o.Name
	}
	return goldenResource{Ref: r.String(), Scope: r.Scope, Origin: origin, Content: r.Content()}
}

func showRoute(r compile.RouteStatus) goldenRoute {
	out := goldenRoute{Route: string(r.Kind) + " " + r.Name.String()}
	for _, p := range r.Parents {
		parent := goldenParent{ParentRef: p.ParentRef, Audience: p.Audience}
		for _, held := range p.Resources {
			parent.Resources = append(parent.Resources, held.String())
		}
		for _, c := range p.Conditions {
			parent.Conditions = append(parent.Conditions, showCondition(c))
		}
		out.Parents = append(out.Parents, parent)
	}
	return out
}
