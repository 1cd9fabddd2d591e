package proxies

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"weft.dev/weft/proxy/wire"
)

// Difference is a resource that a proxy has otherwise than it is declared.
type Difference struct {
	wire.Ref `json:",inline"`
	// What is "missing", "left over" or "changed".
	What string `json:"what"`
	// Lines of YAML that are declared alone begin with "+", those that the proxy has alone with "-".
	Lines []string `json:"lines,omitempty"`
}

// What differences are.
const (
	Missing  = "missing"
	LeftOver = "left over"
	Changed  = "changed"
)

// declared are the kinds that follow from what is declared alone.
var declared = []wire.Kind{wire.KindDestination, wire.KindRoute, wire.KindBackend, wire.KindAuthorization}

// concerns tells whether a resource is compared, for the proxies of a namespace.
func concerns(r *wire.Resource, namespace string) bool {
	return slices.Contains(declared, r.Kind) && (r.Scope == wire.ScopeMesh || r.Scope == wire.ScopeNamespace(namespace))
}

// unnumbered returns a resource without its destination number, which the operator keeps and nobody declares.
func unnumbered(r wire.Resource) wire.Resource {
	if r.Destination == nil {
		return r
	}
	d := *r.Destination
	d.Number = 0
	return wire.New(r.Key, r.Scope, r.Origin, &d)
}

// Compare tells by versions where a proxy of a namespace differs from what is compiled. Destinations are known to
// be there; whether they are the same only CompareContent can tell.
func Compare(compiled []wire.Resource, namespace string, held []wire.Held) []Difference {
	versions := make(map[wire.Ref]string, len(held))
	for _, h := range held {
		versions[h.Ref] = h.Version
	}
	var out []Difference
	wanted := map[wire.Ref]bool{}
	for i := range compiled {
		r := &compiled[i]
		if !concerns(r, namespace) {
			continue
		}
		wanted[r.Ref] = true
		switch version, has := versions[r.Ref]; {
		case !has:
			out = append(out, Difference{Ref: r.Ref, What: Missing})
		case version != r.Version && r.Kind != wire.KindDestination:
			out = append(out, Difference{Ref: r.Ref, What: Changed})
		}
	}
	for _, h := range held {
		if slices.Contains(declared, h.Kind) && !wanted[h.Ref] {
			out = append(out, Difference{Ref: h.Ref, What: LeftOver})
		}
	}
	return sorted(out)
}

// CompareContent tells where the resources of a proxy of a namespace differ from what is compiled, and how.
func CompareContent(compiled []wire.Resource, namespace string, has []wire.Resource) []Difference {
	want, got := index(compiled, namespace), index(has, namespace)
	out := []Difference{}
	for ref, r := range want {
		switch other, ok := got[ref]; {
		case !ok:
			out = append(out, Difference{Ref: ref, What: Missing})
		case other.Version != r.Version:
			out = append(out, Difference{Ref: ref, What: Changed, Lines: Lines(text(other), text(r))})
		}
	}
	for ref := range got {
		if _, ok := want[ref]; !ok {
			out = append(out, Difference{Ref: ref, What: LeftOver})
		}
	}
	return sorted(out)
}

func sorted(all []Difference) []Difference {
	slices.SortFunc(all, func(a, b Difference) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key)) })
	return all
}

func index(all []wire.Resource, namespace string) map[wire.Ref]wire.Resource {
	out := map[wire.Ref]wire.Resource{}
	for i := range all {
		if concerns(&all[i], namespace) {
			out[all[i].Ref] = unnumbered(all[i])
		}
	}
	return out
}

// text writes the content of a resource for people.
func text(r wire.Resource) []string {
	data, err := json.Marshal(r.Content())
	if err == nil {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(string(bytes.TrimSpace(data)), "\n")
}

// Lines tells which lines two texts do not share: those of the second begin with "+", those of the first with "-".
func Lines(before, after []string) []string {
	// The longest common subsequence; resources are short.
	common := make([][]int, len(before)+1)
	for i := range common {
		common[i] = make([]int, len(after)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(after) - 1; j >= 0; j-- {
			if before[i] == after[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case i < len(before) && j < len(after) && before[i] == after[j]:
			i, j = i+1, j+1
		case j == len(after) || i < len(before) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+before[i])
			i++
		default:
			out = append(out, "+ "+after[j])
			j++
		}
	}
	return out
}
