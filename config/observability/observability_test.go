package observability

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"weft.dev/weft/test/docs"
)

var update = flag.Bool("update", false, "rewrite the manifests and the documentation")

const (
	configuration = ".."
	document      = "../../docs/observability.md"
	runbookFiles  = "../../docs/runbooks"
)

// golden holds a file to what it is made from.
func golden(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what it is made from; make golden rewrites it", path)
	}
}

func TestGoldenManifests(t *testing.T) {
	rules, err := PrometheusRule()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join(configuration, "prometheus", "rules.yaml"), rules)
	for i := range Dashboards {
		d := &Dashboards[i]
		page, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join(configuration, "grafana", d.UID+".json"), page)
	}
}

// TestGoldenDocument holds the generated parts of the documentation to the code.
func TestGoldenDocument(t *testing.T) {
	own, _ := catalogue(t)
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var rules, alerts strings.Builder
	rules.WriteString("| record | what it is |\n|---|---|\n")
	for _, r := range Rules {
		fmt.Fprintf(&rules, "| `%s` | %s |\n", r.Record, r.Says)
	}
	alerts.WriteString("| alert | severity | fires when | for |\n|---|---|---|---|\n")
	for i := range Alerts {
		a := &Alerts[i]
		fmt.Fprintf(&alerts, "| [%s](runbooks/%s.md) | %s | `%s` | %s |\n", a.Name, a.Runbook, a.Severity, strings.ReplaceAll(a.Expr(), "|", "\\|"), a.For)
	}
	for part, content := range map[string]string{"metrics": reference(own), "rules": rules.String(), "alerts": alerts.String()} {
		begin, end := "<!-- begin "+part+", written by make golden -->\n", "<!-- end "+part+" -->"
		before, rest, ok := strings.Cut(string(text), begin)
		_, after, ended := strings.Cut(rest, end)
		if !ok || !ended {
			t.Fatalf("%s has no part for %s", document, part)
		}
		text = []byte(before + begin + "\n" + strings.TrimSpace(content) + "\n\n" + end + after)
	}
	golden(t, document, text)
}

// queries are all queries by where they are.
func queries() map[string]string {
	all := map[string]string{}
	for _, r := range Rules {
		all["rule "+r.Record] = r.Expr
	}
	for i := range Alerts {
		all["alert "+Alerts[i].Name] = Alerts[i].Expr()
	}
	for _, d := range Dashboards {
		for _, p := range d.Panels {
			for i, q := range p.Queries {
				all[fmt.Sprintf("dashboard %s, %s, %d", d.UID, p.Title, i)] = q.Expr
			}
		}
	}
	return all
}

var (
	selectors = regexp.MustCompile(`\{([^{}]*)\}`)
	windows   = regexp.MustCompile(`\[[^\]]*\]`)
	grouping  = regexp.MustCompile(`\b(by|on|group_left)\s*\(([^()]*)\)`)
	functions = regexp.MustCompile(`[a-z_]+\s*\(`)
	names     = regexp.MustCompile(`[a-z_][a-z0-9_:]*`)
	byName    = regexp.MustCompile(`__name__=~"([^"]*)"`)
	matchers  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	operators = map[string]bool{"or": true, "and": true, "unless": true}
)

// used returns the names of metrics and of labels in a query.
func used(query string) (metrics, labels []string) {
	for _, s := range selectors.FindAllStringSubmatch(query, -1) {
		if found := byName.FindStringSubmatch(s[1]); found != nil {
			metrics = append(metrics, strings.Split(found[1], "|")...)
		}
		for _, m := range matchers.FindAllStringSubmatch(s[1], -1) {
			labels = append(labels, m[1])
		}
	}
	rest := windows.ReplaceAllString(selectors.ReplaceAllString(query, ""), "")
	for _, g := range grouping.FindAllStringSubmatch(rest, -1) {
		labels = append(labels, strings.FieldsFunc(g[2], func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	rest = functions.ReplaceAllString(grouping.ReplaceAllString(rest, ""), "(")
	for _, name := range names.FindAllString(rest, -1) {
		if !operators[name] {
			metrics = append(metrics, name)
		}
	}
	return metrics, labels
}

func TestUsed(t *testing.T) {
	metrics, labels := used(`1 - sum by (a, b) (rate({__name__=~"x_count|y_count",c="x"}[5m])) / on (d) group_left () (min(z:rate5m{e!=""}) or vector(0)) > 4 * 3600`)
	if want := []string{"x_count", "y_count", "z:rate5m"}; !slices.Equal(metrics, want) {
		t.Errorf("metrics %q, want %q", metrics, want)
	}
	slices.Sort(labels)
	if want := []string{"__name__", "a", "b", "c", "d", "e"}; !slices.Equal(labels, want) {
		t.Errorf("labels %q, want %q", labels, want)
	}
}

// templates are what others than Prometheus put into a query.
var templates = regexp.MustCompile(`\{\{[^}]*\}\}`)

// examples are the queries of the examples and of the documentation.
func examples(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples %q, error %v", files, err)
	}
	all := map[string]string{}
	var collect func(where string, value any)
	collect = func(where string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, inner := range value {
				if query, ok := inner.(string); ok && key == "query" {
					all[fmt.Sprintf("%s, query %d", where, len(all))] = templates.ReplaceAllString(query, "x")
				}
				collect(where, inner)
			}
		case []any:
			for _, inner := range value {
				collect(where, inner)
			}
		}
	}
	defer func() {
		if len(all) == 0 {
			t.Error("no example has a query")
		}
	}()
	pages, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		blocks, err := docs.Read("../..", page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			if b.Language == "promql" {
				all[b.String()] = b.Text
			}
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(string(text), "\n---\n") {
			var object map[string]any
			if err := yaml.UnmarshalStrict([]byte(part), &object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			collect(file, object)
		}
	}
	return all
}

// TestNamesExist: every metric that a dashboard, an alert, a rule or an example names exists, and has the labels that it is asked for.
func TestNamesExist(t *testing.T) {
	own, runtime := catalogue(t)
	known, labelled := map[string]bool{}, map[string]bool{
		// What Prometheus adds to everything that it scrapes in Kubernetes, and what queries make.
		"job": true, "instance": true, "namespace": true, "pod": true, "le": true, "__name__": true,
	}
	for _, m := range append(own, runtime...) {
		suffixes := []string{""}
		if m.kind() == "histogram" {
			suffixes = []string{"_bucket", "_count", "_sum"}
		}
		for _, suffix := range suffixes {
			known[m.name+suffix] = true
		}
		for _, l := range m.labels {
			labelled[l] = true
		}
	}
	for _, r := range Rules {
		known[r.Record] = true
	}
	all := queries()
	maps.Copy(all, examples(t))
	for where, query := range all {
		metrics, labels := used(query)
		if len(metrics) == 0 {
			t.Errorf("%s names no metric: %s", where, query)
		}
		for _, name := range metrics {
			if !known[name] {
				t.Errorf("%s names a metric that does not exist: %s", where, name)
			}
		}
		for _, name := range labels {
			if !labelled[name] {
				t.Errorf("%s names a label that does not exist: %s", where, name)
			}
		}
	}
}

// TestMetricsAreShown: what is measured can be seen somewhere without writing a query.
func TestMetricsAreShown(t *testing.T) {
	shown := map[string]bool{}
	for _, query := range queries() {
		metrics, _ := used(query)
		for _, name := range metrics {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				name = strings.TrimSuffix(name, suffix)
			}
			shown[name] = true
		}
	}
	own, _ := catalogue(t)
	// What says the same as something that is shown.
	for _, name := range []string{"weft_config_applied_timestamp_seconds", "weft_config_deltas_total", "weft_config_delta_resources_total"} {
		shown[name] = true
	}
	for _, m := range own {
		if !shown[m.name] {
			t.Errorf("%s of the %s is in no dashboard", m.name, m.component)
		}
	}
}

// TestEveryAlertHasARunbook: and every runbook an alert.
func TestEveryAlertHasARunbook(t *testing.T) {
	files, err := filepath.Glob(runbookFiles + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	unused := map[string]bool{}
	for _, f := range files {
		unused[filepath.Base(f)] = true
	}
	for i := range Alerts {
		a := &Alerts[i]
		text, err := os.ReadFile(filepath.Join(runbookFiles, a.Runbook+".md"))
		if err != nil {
			t.Errorf("%s: %v", a.Name, err)
		}
		if !strings.Contains(string(text), "`"+a.Name+"`") {
			t.Errorf("the runbook of %s does not name it", a.Name)
		}
		delete(unused, a.Runbook+".md")
	}
	for name := range unused {
		t.Errorf("no alert leads to runbook %s", name)
	}
}
