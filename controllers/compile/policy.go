package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// level is what one object says of a traffic policy. Levels are laid over each other, the most general
// first; one that says nothing has a nil policy.
type level struct {
	// origin names the object for people.
	origin string
	policy *wire.Policy
	// said is the same as the API has it, for showing parts that are inherited whole.
	said *meshv1alpha1.TrafficPolicy
}

// policies are the traffic policies in force, by what they are for.
type policies struct {
	// mesh holds the Mesh's defaults, meshFaults what is wrong with them.
	mesh       level
	meshFaults []fault
	// inForce are the levels of the policies that have won their target.
	inForce map[Target]level
	// targetsIn are the targets of each namespace that are in inForce.
	targetsIn map[string][]Target
}

// policy is one MeshPolicy and what comes of it.
type policy struct {
	attachment

	object *meshv1alpha1.MeshPolicy
	// level is what was valid before, if anything was, where the spec is at fault.
	level level
}

// String is how messages name a policy.
func (p *policy) String() string { return "MeshPolicy " + namespacedName(p.object).String() }

// newPolicy reads a policy. Why it does not apply to a target is decided later.
func newPolicy(object *meshv1alpha1.MeshPolicy) *policy {
	p := &policy{object: object, attachment: attachment{meta: object}}
	p.targets, p.faults = readTargets(object.Namespace, object.Spec.TargetRefs, "a Service, an HTTPRoute or a GRPCRoute")
	p.read()
	return p
}

// read reads the policy's spec or, where that is at fault, what was valid before, which must go together
// with the targets of today.
func (p *policy) read() {
	spec := &p.object.Spec.TrafficPolicy
	policy, faults := readPolicy(spec)
	p.faults = append(append(p.faults, faults...), p.misplaced(policy)...)
	p.level.origin = p.String()
	if len(p.faults) == 0 {
		p.level.policy, p.level.said = policy, spec
		return
	}
	p.instead = "nothing of the policy is in force"
	before := p.object.Status.InForce
	if before == nil {
		if mtls := spec.MTLS; mtls != nil && onlyMode(mtls) != nil && !slices.ContainsFunc(p.targets, func(t *policyTarget) bool { return t.key.isRoute() }) {
			p.level.said = &meshv1alpha1.TrafficPolicy{MTLS: onlyMode(mtls)}
			p.level.policy, _ = readPolicy(p.level.said)
			p.instead = "nothing of the policy but mtls.mode is in force"
		}
		return
	}
	if policy, faults = readPolicy(before); len(faults) == 0 && len(p.misplaced(policy)) == 0 {
		p.level.policy, p.level.said = policy, before
		p.instead = "what the policy said before stays in force, see status.inForce"
	}
}

// misplaced are the faults of what belongs to a Service in a policy for a route: all routes share a
// Service's instances.
func (p *policy) misplaced(policy *wire.Policy) []fault {
	at := slices.IndexFunc(p.targets, func(t *policyTarget) bool { return t.key.isRoute() })
	if at < 0 {
		return nil
	}
	var faults []fault
	for _, f := range serviceParts(policy).Fields() {
		field, _, _ := strings.Cut(f.Path, ".")
		switch field {
		case "rateLimits", "sessionPersistence":
			continue
		case "timeouts":
			field = f.Path
		}
		if !slices.ContainsFunc(faults, func(f fault) bool { return f.field == field }) {
			faults = append(faults, *unsupported(field, "it belongs to a Service, whose instances all routes share, and %s is none: "+
				"target a Service or the namespace", p.targets[at].key))
		}
	}
	return faults
}

// byAge sorts the policies that win first: the older one, then the first by name (GEP-713).
func byAge(a, b *policy) int {
	return cmp.Or(a.object.CreationTimestamp.Compare(b.object.CreationTimestamp.Time), strings.Compare(a.object.Name, b.object.Name))
}

// settle gives each target of a namespace's policies to one of them and refuses it to the others. A policy that has
// nothing to put into force takes nothing. It returns the targets that another policy applies to than before.
func (ps *policies) settle(namespace string, in map[string]*policy, objects *targetObjects) []Target {
	all := slices.SortedFunc(maps.Values(in), byAge)
	winners := make(map[Target]*policy)
	for _, p := range all {
		for _, t := range p.targets {
			t.refused = objects.refuse(t)
			if p.level.said == nil || t.refused != nil {
				continue
			}
			winner := winners[t.key]
			if winner == nil {
				winners[t.key] = p
				continue
			}
			t.refused = &policyRefusal{gwv1.PolicyReasonConflicted, winner.String() + " is for " + t.key.String() +
				" too and " + precedence(winner, p) + ": only one policy applies to a target, so delete one of them or bring them together"}
		}
	}
	var changed []Target
	for _, t := range ps.targetsIn[namespace] {
		if winners[t] == nil {
			delete(ps.inForce, t)
			changed = append(changed, t)
		}
	}
	targets := make([]Target, 0, len(winners))
	for t, p := range winners {
		if before, known := ps.inForce[t]; !known || before != p.level {
			changed = append(changed, t)
		}
		ps.inForce[t] = p.level
		targets = append(targets, t)
	}
	ps.targetsIn[namespace] = targets
	return changed
}

func precedence(winner, loser *policy) string {
	if winner.object.CreationTimestamp.Equal(&loser.object.CreationTimestamp) {
		return "comes first by its name, being as old"
	}
	return "is older"
}

// meshDefaults reads the defaults of the Mesh. A part that is at fault is left out, so that the others stay
// in force: a Mesh cannot be refused as a whole.
func meshDefaults(mesh *meshv1alpha1.Mesh) (level, []fault) {
	l := level{origin: "Mesh " + meshv1alpha1.MeshName}
	if mesh == nil || mesh.Spec.Defaults == nil {
		return l, nil
	}
	said := *mesh.Spec.Defaults
	_, faults := readPolicy(&said)
	for i := range faults {
		part, _, _ := strings.Cut(faults[i].field, ".")
		part, _, _ = strings.Cut(part, "[")
		dropPart(&said, part)
	}
	l.policy, _ = readPolicy(&said)
	l.said = &said
	return l, faults
}

func dropPart(p *meshv1alpha1.TrafficPolicy, part string) {
	switch part {
	case "timeouts":
		p.Timeouts = nil
	case "retry":
		p.Retry = nil
	case "loadBalancing":
		p.LoadBalancing = nil
	case "outlierEjection":
		p.OutlierEjection = nil
	case "healthCheck":
		p.HealthCheck = nil
	case "circuitBreaking":
		p.CircuitBreaking = nil
	case "rateLimits":
		p.RateLimits = nil
	case "fault":
		p.Fault = nil
	case "sessionPersistence":
		p.SessionPersistence = nil
	case "mtls":
		p.MTLS = onlyMode(p.MTLS)
	case "telemetry":
		p.Telemetry = nil
	}
}

// onlyMode is what is left of what is said about mTLS when something of it is at fault: nobody is let in by a
// mistake.
func onlyMode(said *meshv1alpha1.MTLS) *meshv1alpha1.MTLS {
	if said == nil || said.Mode == "" || said.Mode == meshv1alpha1.MTLSPermissive {
		return nil
	}
	return &meshv1alpha1.MTLS{Mode: meshv1alpha1.MTLSStrict}
}

// serviceLevels are those of a Service port.
func (w *world) serviceLevels(p place) []level {
	ps := &w.policies
	service := Target{Kind: kindService, Namespace: p.service.Namespace, Name: p.service.Name}
	levels := []level{ps.mesh, ps.inForce[namespaceTarget(p.service.Namespace)], ps.inForce[service]}
	if name := w.port(p).Name; name != "" {
		service.Section = name
		levels = append(levels, ps.inForce[service])
	}
	return levels
}

// routeLevels are those of a rule above its Service's, the rule's own last.
func (w *world) routeLevels(r *route, consumer bool, in *rule, own level) []level {
	ps := &w.policies
	var levels []level
	if consumer {
		levels = append(levels, ps.inForce[namespaceTarget(r.meta.Namespace)])
	}
	key := Target{Kind: string(r.kind), Namespace: r.meta.Namespace, Name: r.meta.Name}
	levels = append(levels, ps.inForce[key])
	if in != nil && in.name != "" {
		key.Section = in.name
		levels = append(levels, ps.inForce[key])
	}
	return append(levels, own)
}

func merge(levels []level) *wire.Policy {
	var merged *wire.Policy
	for _, l := range levels {
		merged = wire.Overlay(merged, l.policy)
	}
	return merged
}

// clientParts is the part of a Service's policy that the proxy applies which matches the route: what a
// Destination holds.
func clientParts(p *wire.Policy) *wire.Policy {
	if p == nil {
		return nil
	}
	out := &wire.Policy{Retry: p.Retry, Fault: p.Fault, Telemetry: p.Telemetry}
	if p.Timeouts != nil {
		timeouts := *p.Timeouts
		timeouts.Connect = nil
		out.Timeouts = orNil(&timeouts)
	}
	return orNil(out)
}

// backendParts is the part of a Service's policy that the proxy applies which chooses the endpoint: what a
// Backend holds.
func backendParts(p *wire.Policy) *wire.Policy {
	out := valueOr(serviceParts(p), wire.Policy{})
	out.MTLS = nil
	if p != nil && p.Telemetry != nil && p.Telemetry.AccessLog != nil {
		// It writes a line of its own about what comes over the hop.
		out.Telemetry = &wire.Telemetry{AccessLog: p.Telemetry.AccessLog}
	}
	return orNil(&out)
}

// serviceParts is the part of a Service's policy that has to do with its instances, which all routes share.
func serviceParts(p *wire.Policy) *wire.Policy {
	if p == nil {
		return nil
	}
	out := *p
	out.Timeouts, out.Retry, out.Fault, out.Telemetry = nil, nil, nil, nil
	if p.Timeouts != nil && p.Timeouts.Connect != nil {
		out.Timeouts = &wire.Timeouts{Connect: p.Timeouts.Connect}
	}
	return orNil(&out)
}

// routeParts is the part of a route's policy that can apply to a route. The rest, which a consumer's
// namespace may have, belongs to the Services of that namespace.
func routeParts(p *wire.Policy) *wire.Policy {
	if p == nil {
		return nil
	}
	out := valueOr(clientParts(p), wire.Policy{})
	out.RateLimits, out.SessionPersistence = p.RateLimits, p.SessionPersistence
	return orNil(&out)
}

// nameSession gives a cookie without a name one of its own, which depends on what it is for, so that
// the cookies of two rules or Services behind one host differ. It returns p or a copy.
func nameSession(p *wire.Policy, of string) *wire.Policy {
	if p == nil || p.SessionPersistence == nil || p.SessionPersistence.Name != "" {
		return p
	}
	sum := sha256.Sum256([]byte(of))
	named, session := *p, *p.SessionPersistence
	session.Name = "weft-session-" + hex.EncodeToString(sum[:4])
	named.SessionPersistence = &session
	return &named
}
