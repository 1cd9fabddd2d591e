// Package spans reads what tools/collector writes: traces in the JSON form of OTLP, as far as tests look at them.
package spans

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Span is one span.
type Span struct {
	TraceID      string     `json:"traceId"`
	SpanID       string     `json:"spanId"`
	ParentSpanID string     `json:"parentSpanId"`
	Name         string     `json:"name"`
	Kind         int        `json:"kind"`
	Start        string     `json:"startTimeUnixNano"`
	Attributes   Attributes `json:"attributes"`
	// Proxy is the namespace of the proxy that tells.
	Proxy string `json:"-"`
}

// The kinds that proxies write.
const (
	KindServer = 2
	KindClient = 3
)

// Attributes are those of a span or of a resource.
type Attributes []struct {
	Key   string `json:"key"`
	Value struct {
		String string `json:"stringValue"`
		Int    string `json:"intValue"`
	} `json:"value"`
}

// Get returns an attribute as text, "" if there is none.
func (a Attributes) Get(key string) string {
	for i := range a {
		if a[i].Key == key {
			return a[i].Value.String + a[i].Value.Int
		}
	}
	return ""
}

// Read returns the spans of a line of the collector's.
func Read(line string) ([]Span, error) {
	var traces struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes Attributes `json:"attributes"`
			} `json:"resource"`
			ScopeSpans []struct {
				Spans []Span `json:"spans"`
			} `json:"scopeSpans"`
		} `json:"resourceSpans"`
	}
	if err := json.Unmarshal([]byte(line), &traces); err != nil {
		return nil, fmt.Errorf("spans in %q: %w", line, err)
	}
	var all []Span
	for _, resource := range traces.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				s.Proxy = resource.Resource.Attributes.Get("service.namespace")
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// Tree writes spans down as the trace that they are, each below its parent and in the order of their beginning. A trace
// of which the first spans are missing is empty.
func Tree(all []Span) []string {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(x, y Span) int { return cmp.Compare(x.Start, y.Start) })
	return below(sorted, "", 0)
}

func below(all []Span, parent string, depth int) []string {
	kinds := map[int]string{KindServer: "server", KindClient: "client"}
	var out []string
	for _, s := range all {
		if s.ParentSpanID != parent {
			continue
		}
		line := []string{strings.Repeat("  ", depth) + s.Proxy, kinds[s.Kind], s.Name, s.Attributes.Get("http.response.status_code")}
		if resent := s.Attributes.Get("http.request.resend_count"); resent != "" {
			line = append(line, "again "+resent)
		}
		out = append(append(out, strings.Join(line, " ")), below(all, s.SpanID, depth+1)...)
	}
	return out
}
