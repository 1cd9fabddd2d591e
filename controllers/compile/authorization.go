package compile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/authz"
	"weft.dev/weft/proxy/wire"
)

// authorization is one MeshAuthorization and what comes of it.
type authorization struct {
	attachment

	object *meshv1alpha1.MeshAuthorization
	// content is what proxies enforce; nil if there is nothing to enforce. resources is what they receive.
	content   *wire.Authorization
	resources []wire.Resource
	// guarded are what targets that are routes come to, by their place in targets.
	guarded map[*policyTarget][]wire.AuthorizationTarget
	// keys is the condition about the keys of issuers, nil without any.
	keys *metav1.Condition
	// notes are what a user should know of a policy that is in force.
	notes []string
}

// readAuthorizations reads those of a namespace, sorted by name.
func (c *Compiler) readAuthorizations(namespace string) []*authorization {
	in := c.objects.authorizations[namespace]
	claimed := headersFromClaims(in)
	all := make([]*authorization, 0, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		a := &authorization{object: in[name], attachment: attachment{meta: in[name]}}
		a.readTargets(c.targets())
		a.guard(c.objects.routes, claimed)
		a.read(c.settings)
		a.place(c)
		a.note(c.settings)
		a.resources = a.publish()
		all = append(all, a)
	}
	return all
}

func (a *authorization) readTargets(objects *targetObjects) {
	a.targets, a.faults = readTargets(a.object.Namespace, a.object.Spec.TargetRefs, "a Service, an HTTPRoute or a GRPCRoute")
	for _, t := range a.targets {
		t.refused = objects.refuse(t)
	}
}

// read makes the content without its targets. A spec that is at fault denies everything to its targets: it may
// have been meant to deny anything.
func (a *authorization) read(snapshot Snapshot) {
	spec := &a.object.Spec
	a.content = &wire.Authorization{
		Namespace: a.object.Namespace, Name: a.object.Name,
		Action: wire.AuthorizationAction(spec.Action), Audit: spec.Mode == meshv1alpha1.AuthorizationAudit,
	}
	switch spec.Mode {
	case "", meshv1alpha1.AuthorizationEnforce, meshv1alpha1.AuthorizationAudit:
	default:
		a.faults = append(a.faults, *unsupported("mode", "%q is neither Enforce nor Audit", spec.Mode))
	}
	if spec.Action == meshv1alpha1.AuthorizationDeny && len(spec.Rules) == 0 {
		a.faults = append(a.faults, *unsupported("rules", "a Deny policy without rules denies nothing: add a rule, which may be {} for everything"))
	}
	a.readTokens(snapshot)
	for i := range spec.Rules {
		a.content.Rules = append(a.content.Rules, wireRule(&spec.Rules[i]))
	}
	if _, err := authz.Compile(a.content); err != nil {
		f, ok := errors.AsType[authz.FieldError](err)
		if !ok {
			f = authz.FieldError{Field: "rules", Why: err.Error()}
		}
		a.faults = append(a.faults, *unsupported(inSpec(f.Field), "%s", f.Why))
	}
	switch {
	case len(a.faults) == 0:
	case a.content.Audit:
		a.content, a.instead = nil, "nothing is audited"
	default:
		a.content.Action, a.content.Rules, a.content.Tokens = wire.AuthorizationDeny, []wire.AuthorizationRule{{}}, nil
		a.instead = "nothing is let through to its targets until it is corrected"
	}
}

func wireRule(in *meshv1alpha1.AuthorizationRule) wire.AuthorizationRule {
	var out wire.AuthorizationRule
	for i := range in.From {
		out.From = append(out.From, wireSource(&in.From[i]))
	}
	for i := range in.To {
		out.To = append(out.To, wireOperation(&in.To[i]))
	}
	for _, condition := range in.Conditions {
		out.Conditions = append(out.Conditions, string(condition))
	}
	return out
}

func wireSource(in *meshv1alpha1.AuthorizationSource) wire.AuthorizationSource {
	out := wire.AuthorizationSource{Unauthenticated: valueOr(in.Unauthenticated, false)}
	for _, sa := range in.ServiceAccounts {
		out.ServiceAccounts = append(out.ServiceAccounts, wire.ServiceAccount{Namespace: string(sa.Namespace), Name: string(sa.Name)})
	}
	for _, namespace := range in.Namespaces {
		out.Namespaces = append(out.Namespaces, string(namespace))
	}
	for _, pattern := range in.SPIFFE {
		out.SPIFFE = append(out.SPIFFE, string(pattern))
	}
	for _, block := range in.IPBlocks {
		b := wire.IPBlock{CIDR: string(block.CIDR)}
		for _, except := range block.Except {
			b.Except = append(b.Except, string(except))
		}
		out.IPBlocks = append(out.IPBlocks, b)
	}
	if in.JWT != nil {
		out.Token = &wire.TokenMatch{Issuers: in.JWT.Issuers, Subjects: in.JWT.Subjects, Audiences: in.JWT.Audiences}
		for _, claim := range in.JWT.Claims {
			out.Token.Claims = append(out.Token.Claims, wire.ClaimMatch{Path: claim.Path, Values: claim.Values})
		}
	}
	return out
}

func wireOperation(in *meshv1alpha1.AuthorizationOperation) wire.AuthorizationOperation {
	var out wire.AuthorizationOperation
	for _, port := range in.Ports {
		// What is no port becomes 0, which is refused.
		if port < 0 || port > 65535 {
			port = 0
		}
		out.Ports = append(out.Ports, uint16(port))
	}
	for _, method := range in.Methods {
		out.Methods = append(out.Methods, string(method))
	}
	for _, path := range in.Paths {
		out.Paths = append(out.Paths, wire.PathPattern{Type: wire.PathPatternType(path.Type), Value: path.Value})
	}
	for _, m := range in.GRPC {
		out.GRPC = append(out.GRPC, wire.GRPCMethod{Service: m.Service, Method: m.Method})
	}
	for _, h := range in.Headers {
		out.Headers = append(out.Headers, wire.AuthorizedHeader{Name: h.Name, Type: wire.HeaderPatternType(h.Type), Value: h.Value})
	}
	return out
}

// leads tells where the producer routes of a place send and mirror requests to, by keys.
func (c *Compiler) leads(from place) []string {
	var backends []string
	for _, u := range c.attachable[from] {
		side := u.compiled.sides[false]
		if side == nil || !slices.ContainsFunc(u.parents(), func(p *parent) bool { return !p.consumer && slices.Contains(p.places, from) }) {
			continue
		}
		for i := range side.rules {
			r := &side.rules[i].content
			mirrors := func(filters []wire.Filter) {
				for j := range filters {
					if m := filters[j].Mirror; m != nil {
						backends = append(backends, m.Backend)
					}
				}
			}
			mirrors(r.Filters)
			for j := range r.Backends {
				backends = append(backends, r.Backends[j].Backend)
				mirrors(r.Backends[j].Filters)
			}
		}
	}
	return backends
}

// place gives the content its targets. Whether a Service exists does not matter, so that none is without its
// policy for a moment. A policy for a Service is for where routes of the namespace lead from there as well: a
// caller addresses the Service, and what its proxy makes of it is not for the callee to rely on.
func (a *authorization) place(c *Compiler) {
	if a.content == nil {
		return
	}
	if !c.world.enrolment.has(a.object.Namespace) {
		a.content = nil
		return
	}
	var elsewhere, within []string
	for _, t := range a.targets {
		if t.key.Kind == kindNamespace {
			return
		}
		if t.key.isRoute() {
			a.content.Targets = append(a.content.Targets, a.guarded[t]...)
			continue
		}
		target := wire.AuthorizationTarget{Service: t.key.Name}
		ports := c.world.sectionPorts(t.key)
		if t.key.Section != "" {
			if len(ports) == 0 {
				continue // there is nothing to protect
			}
			target.Port = ports[0]
		}
		a.content.Targets = append(a.content.Targets, target)
		for _, from := range ports {
			for _, key := range c.leads(place{service: types.NamespacedName{Namespace: t.key.Namespace, Name: t.key.Name}, port: from}) {
				namespace, name, port, ok := wire.ParseServicePortKey(key)
				switch {
				case ok && namespace == t.key.Namespace && name == target.Service && (target.Port == 0 || target.Port == port):
				case ok && namespace == t.key.Namespace:
					a.content.Targets = append(a.content.Targets, wire.AuthorizationTarget{Service: name, Port: port})
					within = append(within, fmt.Sprintf("%s:%d", name, port))
				case key != "" && namespace != t.key.Namespace:
					elsewhere = append(elsewhere, key)
				}
			}
		}
	}
	if len(a.content.Targets) == 0 {
		a.content = nil
		return
	}
	a.content.Targets = merged(a.content.Targets)
	if len(within) > 0 {
		a.notes = append(a.notes, "it holds for "+some(within)+" too, where routes send such requests")
	}
	if len(elsewhere) > 0 {
		a.notes = append(a.notes, "it does not hold for "+some(elsewhere)+", where routes send such requests: authorization there is for that namespace")
	}
}

// sectionPorts are the TCP ports of a Service that have the name which a section asks for, if it does.
func (w *world) sectionPorts(t Target) []uint16 {
	service := w.services[types.NamespacedName{Namespace: t.Namespace, Name: t.Name}]
	if service == nil {
		return nil
	}
	var ports []uint16
	for i := range service.Spec.Ports {
		if p := &service.Spec.Ports[i]; isTCP(p) && (t.Section == "" || p.Name == t.Section) {
			ports = append(ports, uint16(p.Port))
		}
	}
	return ports
}

// some names as many of several things as fit a message.
func some(names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > maxFaults {
		names = append(names[:maxFaults:maxFaults], fmt.Sprintf("%d more", len(names)-maxFaults))
	}
	return strings.Join(names, ", ")
}

// note gathers what is valid and may be a mistake all the same.
func (a *authorization) note(s Snapshot) {
	if len(a.faults) > 0 {
		return
	}
	var absent []string
	for i := range a.object.Spec.Rules {
		rule := &a.object.Spec.Rules[i]
		if len(rule.From) == 0 && len(rule.To) == 0 && len(rule.Conditions) == 0 && a.object.Spec.Action == meshv1alpha1.AuthorizationAllow {
			a.notes = append(a.notes, fmt.Sprintf("spec.rules[%d] is empty and allows everybody everything", i))
		}
		for j := range rule.From {
			for _, sa := range rule.From[j].ServiceAccounts {
				name := types.NamespacedName{Namespace: string(sa.Namespace), Name: string(sa.Name)}
				if s.ServiceAccounts != nil && !s.ServiceAccounts[name] {
					absent = append(absent, name.String())
				}
			}
		}
	}
	a.noteTokens()
	if len(absent) > 0 {
		a.notes = append(a.notes, "no pod runs as ServiceAccount "+some(absent))
	}
}

// publish returns the policy as its namespace's proxies receive it, if they do.
func (a *authorization) publish() []wire.Resource {
	if a.content == nil {
		return nil
	}
	origin := wire.Origin{
		APIVersion: meshv1alpha1.GroupVersion.String(), Kind: "MeshAuthorization",
		Namespace: a.object.Namespace, Name: a.object.Name,
	}
	return []wire.Resource{wire.New(a.content.Key(), wire.ScopeNamespace(a.object.Namespace), origin, a.content)}
}
