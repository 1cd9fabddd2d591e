package trial

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// Lines describes the rules that requests of a namespace to a destination compete for, in the order in which they
// are preferred.
func Lines(routes []*wire.Route) []string {
	table, _ := phttp.NewTable(routes)
	var lines []string
	for _, o := range table.Order() {
		route := o.Rule.Route()
		lines = append(lines, fmt.Sprintf("%s -> %s  (%s)", MatchText(&route.Matches[o.Match]), ActionText(route), RuleText(route)))
	}
	if len(lines) > 0 && !slices.ContainsFunc(table.Order(), func(o phttp.Ordered) bool {
		return MatchText(&o.Rule.Route().Matches[o.Match]) == everything
	}) {
		lines = append(lines, "everything else -> 404 no_rule_matched")
	}
	return lines
}

// RuleText names a rule.
func RuleText(r *wire.Route) string {
	name := "rule " + strconv.Itoa(r.Rule)
	if r.RuleName != "" {
		name = "rule " + strconv.Quote(r.RuleName)
	}
	return name + " of " + string(r.Kind) + " " + r.Namespace + "/" + r.Name
}

// ActionText says what a rule does with a request.
func ActionText(r *wire.Route) string {
	total := int64(0)
	for i := range r.Backends {
		total += int64(r.Backends[i].Weight)
	}
	parts := filterTexts(r.Filters)
	for i := range r.Backends {
		b := &r.Backends[i]
		name := b.Backend
		if name == "" {
			name = "500, a backend that does not exist"
		}
		switch {
		case b.Weight == 0:
			continue
		case total == int64(b.Weight):
			parts = append(parts, name)
		default:
			parts = append(parts, fmt.Sprintf("%s %s", PercentText(percent(int64(b.Weight), total)), name))
		}
		parts = append(parts, filterTexts(b.Filters)...)
	}
	if total == 0 && !slices.ContainsFunc(r.Filters, func(f wire.Filter) bool { return f.Redirect != nil }) {
		parts = append(parts, "500, it has nowhere to go")
	}
	return strings.Join(parts, ", ")
}

// filterTexts says what filters do.
func filterTexts(filters []wire.Filter) []string {
	var out []string
	for i := range filters {
		switch f := &filters[i]; {
		case f.RequestHeaders != nil:
			out = append(out, "change request headers ("+modifierText(f.RequestHeaders)+")")
		case f.ResponseHeaders != nil:
			out = append(out, "change response headers ("+modifierText(f.ResponseHeaders)+")")
		case f.Redirect != nil:
			out = append(out, "redirect with "+strconv.Itoa(f.Redirect.Status))
		case f.URLRewrite != nil:
			out = append(out, "rewrite "+rewriteText(f.URLRewrite))
		case f.Mirror != nil:
			out = append(out, fmt.Sprintf("mirror %s to %s", PercentText(percent(int64(f.Mirror.Numerator), int64(f.Mirror.Denominator))), f.Mirror.Backend))
		case f.CORS != nil:
			out = append(out, "answer CORS for "+strings.Join(f.CORS.AllowOrigins, " "))
		}
	}
	return out
}

func modifierText(m *wire.HeaderModifier) string {
	var parts []string
	for _, h := range m.Set {
		parts = append(parts, "set "+h.Name)
	}
	for _, h := range m.Add {
		parts = append(parts, "add "+h.Name)
	}
	for _, name := range m.Remove {
		parts = append(parts, "remove "+name)
	}
	return strings.Join(parts, ", ")
}

func rewriteText(r *wire.URLRewrite) string {
	var parts []string
	if r.Hostname != "" {
		parts = append(parts, "host to "+r.Hostname)
	}
	switch {
	case r.Path == nil:
	case r.Path.ReplaceFullPath != nil:
		parts = append(parts, "path to "+*r.Path.ReplaceFullPath)
	case r.Path.ReplacePrefixMatch != nil:
		parts = append(parts, "prefix to "+*r.Path.ReplacePrefixMatch)
	}
	return strings.Join(parts, ", ")
}

// AuthorizationLines says what authorizations that concern a Service allow and deny.
func (m *Mesh) AuthorizationLines(namespace, service string) []string {
	var lines []string
	for _, a := range m.authorizations[namespace] {
		var at []string
		for _, t := range a.Targets {
			if t.Service == service {
				at = append(at, portText(t.Port))
			}
		}
		if len(a.Targets) > 0 && len(at) == 0 {
			continue
		}
		head := fmt.Sprintf("MeshAuthorization %s: %s", a.Key(), strings.ToLower(string(a.Action)))
		if ports := strings.Join(at, ", "); ports != "" {
			head += ", " + ports
		}
		if a.Audit {
			head += ", only audited"
		}
		if len(a.Rules) == 0 {
			head += ": nothing by itself"
		}
		lines = append(lines, head)
		for _, text := range ruleLines(a) {
			lines = append(lines, "  "+text)
		}
	}
	return lines
}

// PolicyLines says what the rules of one authorization say, by its "namespace/name".
func (m *Mesh) PolicyLines(name string) []string {
	namespace, _, _ := strings.Cut(name, "/")
	for _, a := range m.authorizations[namespace] {
		if a.Key() == name {
			return append([]string{strings.ToLower(string(a.Action))}, ruleLines(a)...)
		}
	}
	return nil
}

func ruleLines(a *wire.Authorization) []string {
	var lines []string
	for i := range a.Rules {
		lines = append(lines, fmt.Sprintf("rule %d: %s", i, authorizationText(&a.Rules[i])))
	}
	return lines
}

func portText(port uint16) string {
	if port == 0 {
		return "all ports"
	}
	return "port " + strconv.Itoa(int(port))
}

func authorizationText(r *wire.AuthorizationRule) string {
	from, to := []string{}, []string{}
	for i := range r.From {
		from = append(from, sourceText(&r.From[i]))
	}
	for i := range r.To {
		to = append(to, operationText(&r.To[i]))
	}
	text := "everybody"
	if len(from) > 0 {
		text = strings.Join(from, "; or ")
	}
	if len(to) > 0 {
		return text + ", for " + strings.Join(to, "; or ")
	}
	return text + ", for everything"
}

func sourceText(s *wire.AuthorizationSource) string {
	var parts []string
	for _, a := range s.ServiceAccounts {
		parts = append(parts, "ServiceAccount "+a.Namespace+"/"+a.Name)
	}
	if len(s.Namespaces) > 0 {
		parts = append(parts, "namespace "+strings.Join(s.Namespaces, ", "))
	}
	parts = append(parts, s.SPIFFE...)
	for _, b := range s.IPBlocks {
		text := "address in " + b.CIDR
		if len(b.Except) > 0 {
			text += " without " + strings.Join(b.Except, ", ")
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

func operationText(o *wire.AuthorizationOperation) string {
	var parts []string
	for _, p := range o.Ports {
		parts = append(parts, portText(p))
	}
	if len(o.Methods) > 0 {
		parts = append(parts, strings.Join(o.Methods, ", "))
	}
	for _, p := range o.Paths {
		parts = append(parts, strings.ToLower(string(p.Type))+" path "+p.Value)
	}
	for _, g := range o.GRPC {
		parts = append(parts, "gRPC "+orAny(g.Service)+"/"+orAny(g.Method))
	}
	for _, h := range o.Headers {
		parts = append(parts, strings.TrimSpace("header "+h.Name+" "+strings.ToLower(string(h.Type))+" "+h.Value))
	}
	return strings.Join(parts, ", ")
}
