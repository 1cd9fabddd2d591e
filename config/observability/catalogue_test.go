package observability

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/controllers"
	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/engine"
)

// metric is what a component says about one of its metrics.
type metric struct {
	component, name, help string
	labels                []string
}

// kind follows from the name, as Prometheus' conventions have it.
func (m *metric) kind() string {
	switch {
	case strings.HasSuffix(m.name, "_total"):
		return "counter"
	case strings.HasSuffix(m.name, "_duration_seconds"):
		return "histogram"
	}
	return "gauge"
}

// catalogue are all metrics of Weft's own, and those of Go's runtime and of the process that each component has.
func catalogue(t *testing.T) (own, runtime []metric) {
	t.Helper()
	e := engine.New(engine.Options{Namespace: "shop", AccessLog: accesslog.New(io.Discard)})
	proxy, ok := e.Metrics().Gatherer().(prometheus.Collector)
	if !ok {
		t.Fatal("the proxy's metrics cannot be described")
	}
	node := prometheus.NewRegistry()
	capture.NewMetrics(node)
	node.MustRegister(&capture.Agent{})
	for component, describe := range map[string]func(chan<- *prometheus.Desc){
		"proxy": proxy.Describe, "node": node.Describe, "operator": controllers.DescribeMetrics,
	} {
		descs := make(chan *prometheus.Desc)
		go func() {
			describe(descs)
			close(descs)
		}()
		for d := range descs {
			m := parse(t, d)
			m.component = component
			if slices.ContainsFunc(own, func(have metric) bool { return have.name == m.name && have.component == component }) {
				continue // another value of a label that is constant
			}
			if strings.HasPrefix(m.name, "go_") || strings.HasPrefix(m.name, "process_") {
				runtime = append(runtime, m)
			} else {
				own = append(own, m)
			}
		}
	}
	order := []string{"proxy", "node", "operator"}
	slices.SortFunc(own, func(a, b metric) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.component), slices.Index(order, b.component)), cmp.Compare(a.name, b.name))
	})
	return own, runtime
}

var descPattern = regexp.MustCompile(`^Desc\{fqName: ("[^"]*"), help: (".*"), unit: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// parse reads a description, which has no other way in.
func parse(t *testing.T, d *prometheus.Desc) metric {
	t.Helper()
	parts := descPattern.FindStringSubmatch(d.String())
	if parts == nil {
		t.Fatalf("cannot read %s", d)
	}
	var m metric
	var err error
	if m.name, err = strconv.Unquote(parts[1]); err != nil {
		t.Fatal(err)
	}
	if m.help, err = strconv.Unquote(parts[2]); err != nil {
		t.Fatal(err)
	}
	if constant, _, ok := strings.Cut(parts[3], "="); ok {
		m.labels = []string{constant}
	}
	if parts[4] != "" {
		m.labels = append(m.labels, strings.Split(parts[4], ",")...)
	}
	return m
}

// reference is the table of all metrics for the documentation.
func reference(metrics []metric) string {
	var out strings.Builder
	for _, component := range []struct{ name, title string }{
		{"proxy", "Proxies"}, {"node", "Node agents"}, {"operator", "Operator"},
	} {
		fmt.Fprintf(&out, "### %s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", component.title)
		for _, m := range metrics {
			if m.component != component.name {
				continue
			}
			labels := "–"
			if len(m.labels) > 0 {
				labels = "`" + strings.Join(m.labels, "` `") + "`"
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.name, m.kind(), labels, m.help)
		}
		out.WriteString("\n")
	}
	return out.String()
}
