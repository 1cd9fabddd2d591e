package compile_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// sequences is how many random sequences TestIncremental tries; 0 for as many as fit into a few seconds.
var sequences = flag.Int("sequences", 0, "random sequences of changes to try, 0 for a few seconds of them")

// steps is how many changes a sequence has: enough for objects to change to and fro.
const steps = 30

// TestIncremental takes Compilers through random sequences of changes.
func TestIncremental(t *testing.T) {
	seed := rand.Int64()
	t.Logf("seeds from %d", seed)
	start := time.Now()
	tried := 0
	for ; *sequences == 0 && time.Since(start) < 4*time.Second || tried < *sequences; tried++ {
		if !tryChanges(t, seed+int64(tried)) {
			t.Fatalf("seed %d of FuzzIncremental", seed+int64(tried))
		}
	}
	t.Logf("%d sequences", tried)
}

// FuzzIncremental changes a snapshot at random again and again: a Compiler that is told of the changes comes to the
// same as one that sees only the last snapshot, and its deltas say all that has changed and nothing else.
func FuzzIncremental(f *testing.F) {
	for seed := range int64(5) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) { tryChanges(t, seed) })
}

// changing is a snapshot that changes, with what a Compiler has said of it in deltas.
type changing struct {
	*rand.Rand
	settings compile.Snapshot
	now      compile.Changes
	// variants are what objects may change to.
	variants []compile.Changes
	// focus is the namespace that most changes are in, so that they meet.
	focus string
	told  told
}

// told is what deltas come to, one after the other.
type told struct {
	resources      map[wire.Ref]wire.Resource
	routes         map[compile.Target]compile.RouteStatus
	policies       map[types.NamespacedName]compile.PolicyStatus
	authorizations map[types.NamespacedName]compile.AuthorizationStatus
	exposures      map[string][]compile.Exposure
}

func tryChanges(t *testing.T, seed int64) bool {
	t.Helper()
	c := newChanging(seed)
	compiler, all := compile.NewCompiler(c.snapshot(nil))
	c.told = newTold()
	// Who publishes may not come to it for some changes, and takes them together.
	late, missed, numbers := newTold(), compile.Delta{}, false
	for who, told := range map[string]told{"at first": c.told, "at first, late": late} {
		if problem := told.take(all, compiler.Result()); problem != "" {
			t.Errorf("seed %d, %s: %s", seed, who, problem)
			return false
		}
	}
	for step := range steps {
		before := maps.Clone(compiler.Numbers())
		given := maps.Clone(before)
		changes, what := c.change(given)
		delta := compiler.Update(changes)
		want, got := compile.Compile(c.snapshot(given)), compiler.Result()
		if diff := differ(want, got); diff != "" {
			t.Errorf("seed %d, step %d: %s: incrementally it is another result (-fresh +incremental):\n%s", seed, step, what, diff)
			return false
		}
		for _, problem := range []string{c.told.repeated(delta), c.told.take(delta, got)} {
			if problem != "" {
				t.Errorf("seed %d, step %d: %s: %s", seed, step, what, problem)
				return false
			}
		}
		if same := maps.Equal(before, got.Numbers); !same && !delta.Numbers || same && delta.Numbers && len(changes.Numbers) == 0 {
			t.Errorf("seed %d, step %d: %s: the delta says %t about other numbers", seed, step, what, delta.Numbers)
			return false
		}
		missed, numbers = missed.Then(delta), numbers || delta.Numbers
		if c.IntN(3) > 0 {
			continue
		}
		if problem := late.take(missed, got); problem != "" || missed.Numbers != numbers {
			t.Errorf("seed %d, step %d: %s: with what came before, the deltas say %t about other numbers: %s", seed, step, what, missed.Numbers, problem)
			return false
		}
		missed, numbers = compile.Delta{}, false
	}
	return true
}

func newChanging(seed int64) *changing {
	c := &changing{Rand: rand.New(rand.NewPCG(uint64(seed), 1))}
	c.focus = oneFrom(c, "a", "b", "c")
	for variant := range int64(3) {
		s := randomSnapshot(seed*3 + variant)
		c.apply(&s)
		for i, svc := range s.Services {
			svc.UID = types.UID(fmt.Sprintf("00000000-0000-0000-0000-00000000%02d%02d", variant/2, i))
			s.EndpointSlices = append(s.EndpointSlices, c.slice(svc, variant))
		}
		c.variants = append(c.variants, changesFrom(s))
		if variant == 0 {
			c.settings = s
			c.now = changesFrom(s)
		}
	}
	return c
}

// apply makes most objects of a snapshot apply. Filled at random, nearly all policies are refused and most routes mean
// nothing, so that nothing would depend on them.
func (c *changing) apply(s *compile.Snapshot) {
	for _, r := range s.HTTPRoutes {
		if c.IntN(3) > 0 {
			r.Spec = gwv1.HTTPRouteSpec{CommonRouteSpec: c.parents()}
			for range 1 + c.IntN(2) {
				r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{Name: c.ruleName(), BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: c.backend()}}})
			}
		}
	}
	for _, r := range s.GRPCRoutes {
		if c.IntN(3) > 0 {
			r.Spec = gwv1.GRPCRouteSpec{
				CommonRouteSpec: c.parents(),
				Rules:           []gwv1.GRPCRouteRule{{Name: c.ruleName(), BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: c.backend()}}}},
			}
		}
	}
	for _, p := range s.MeshPolicies {
		if c.IntN(4) > 0 {
			p.Spec.TargetRefs = c.targets()
			p.Spec.TrafficPolicy = c.traffic()
		}
	}
	for _, a := range s.MeshAuthorizations {
		if c.IntN(4) > 0 {
			a.Spec = meshv1alpha1.MeshAuthorizationSpec{
				TargetRefs: c.targets(), Action: oneFrom(c, meshv1alpha1.AuthorizationAllow, meshv1alpha1.AuthorizationDeny),
				Mode:  oneFrom(c, meshv1alpha1.AuthorizationEnforce, meshv1alpha1.AuthorizationAudit),
				Rules: []meshv1alpha1.AuthorizationRule{{From: []meshv1alpha1.AuthorizationSource{{Namespaces: []gwv1.Namespace{oneFrom[gwv1.Namespace](c, "a", "b")}}}}},
			}
			if c.IntN(4) == 0 {
				a.Spec.JWT = &meshv1alpha1.AuthorizationJWT{Issuers: []meshv1alpha1.JWTIssuer{{
					Issuer: "login", JWKS: meshv1alpha1.JWKSSource{URL: "http://login.example/keys"},
				}}}
			}
		}
	}
}

func oneFrom[T any](c *changing, values ...T) T { return values[c.IntN(len(values))] }

func (c *changing) parents() gwv1.CommonRouteSpec {
	ref := gwv1.ParentReference{
		Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: oneFrom[gwv1.ObjectName](c, "x", "y"),
		Port: oneFrom(c, nil, new(gwv1.PortNumber(80))), Namespace: oneFrom(c, nil, nil, new(gwv1.Namespace("a")), new(gwv1.Namespace("c"))),
	}
	return gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{ref}}
}

func (c *changing) ruleName() *gwv1.SectionName {
	return oneFrom(c, nil, new(gwv1.SectionName("http")))
}

func (c *changing) backend() gwv1.BackendRef {
	return gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{
		Name: oneFrom[gwv1.ObjectName](c, "x", "y"), Port: new(gwv1.PortNumber(80)), Namespace: oneFrom(c, nil, nil, new(gwv1.Namespace("c"))),
	}}
}

// targets are those of a policy: its namespace, a Service, a route, or a part of one.
func (c *changing) targets() []gwv1.LocalPolicyTargetReferenceWithSectionName {
	section := oneFrom(c, nil, nil, new(gwv1.SectionName("http")))
	of := func(group gwv1.Group, kind gwv1.Kind, names ...gwv1.ObjectName) []gwv1.LocalPolicyTargetReferenceWithSectionName {
		return []gwv1.LocalPolicyTargetReferenceWithSectionName{{
			LocalPolicyTargetReference: gwv1.LocalPolicyTargetReference{Group: group, Kind: kind, Name: oneFrom(c, names...)}, SectionName: section,
		}}
	}
	switch c.IntN(4) {
	case 0:
		return nil
	case 1:
		return of("", "Service", "x", "y")
	case 2:
		return of(gwv1.GroupName, "GRPCRoute", "r", "s")
	}
	return of(gwv1.GroupName, "HTTPRoute", "r", "s")
}

// traffic is a part that any target may have, or one that routes may not.
func (c *changing) traffic() meshv1alpha1.TrafficPolicy {
	switch c.IntN(4) {
	case 0:
		return meshv1alpha1.TrafficPolicy{MTLS: &meshv1alpha1.MTLS{Mode: oneFrom(c, meshv1alpha1.MTLSStrict, meshv1alpha1.MTLSPermissive)}}
	case 1:
		return meshv1alpha1.TrafficPolicy{LoadBalancing: &meshv1alpha1.LoadBalancing{Algorithm: oneFrom[meshv1alpha1.Algorithm](c, "Random", "RoundRobin")}}
	}
	return meshv1alpha1.TrafficPolicy{Timeouts: &meshv1alpha1.Timeouts{Request: new(oneFrom[gwv1.Duration](c, "1s", "2s", "3s"))}}
}

func (c *changing) slice(svc *corev1.Service, variant int64) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: fmt.Sprintf("%s-%d", svc.Name, variant),
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.1.%d.%d", variant, c.IntN(256))}}},
		Ports:       []discoveryv1.EndpointPort{{Name: new(svc.Spec.Ports[0].Name), Port: new(int32(8080))}},
	}
}

func changesFrom(s compile.Snapshot) compile.Changes {
	ch := compile.Changes{
		Services: named(s.Services), HTTPRoutes: named(s.HTTPRoutes), GRPCRoutes: named(s.GRPCRoutes),
		MeshPolicies: named(s.MeshPolicies), MeshAuthorizations: named(s.MeshAuthorizations),
		EndpointSlices: map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
	}
	for _, slice := range s.EndpointSlices {
		name := compile.SliceService(slice)
		ch.EndpointSlices[name] = append(ch.EndpointSlices[name], slice)
	}
	return ch
}

func named[T metav1.Object](list []T) map[types.NamespacedName]T {
	out := make(map[types.NamespacedName]T, len(list))
	for _, o := range list {
		out[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}] = o
	}
	return out
}

func (c *changing) snapshot(numbers compile.Numbers) compile.Snapshot {
	s := c.settings
	s.Numbers = numbers
	s.Services, s.HTTPRoutes, s.GRPCRoutes = objectsOf(c.now.Services), objectsOf(c.now.HTTPRoutes), objectsOf(c.now.GRPCRoutes)
	s.MeshPolicies, s.MeshAuthorizations = objectsOf(c.now.MeshPolicies), objectsOf(c.now.MeshAuthorizations)
	// One slice is always there, so that Compile makes Endpoints.
	s.EndpointSlices = []*discoveryv1.EndpointSlice{{ObjectMeta: metav1.ObjectMeta{Namespace: "z", Name: "z"}}}
	for _, list := range c.now.EndpointSlices {
		s.EndpointSlices = append(s.EndpointSlices, list...)
	}
	return s
}

func objectsOf[T any](in map[types.NamespacedName]*T) []*T {
	return slices.Collect(maps.Values(in))
}

// change changes something and drops numbers that are to be forgotten. It says what it has done.
func (c *changing) change(numbers compile.Numbers) (compile.Changes, string) {
	ch := compile.Changes{
		Services: map[types.NamespacedName]*corev1.Service{}, HTTPRoutes: map[types.NamespacedName]*gwv1.HTTPRoute{},
		GRPCRoutes: map[types.NamespacedName]*gwv1.GRPCRoute{}, MeshPolicies: map[types.NamespacedName]*meshv1alpha1.MeshPolicy{},
		MeshAuthorizations: map[types.NamespacedName]*meshv1alpha1.MeshAuthorization{},
		EndpointSlices:     map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
	}
	var what []string
	say := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	for range 1 + c.IntN(3) {
		to := &c.variants[c.IntN(len(c.variants))]
		switch c.IntN(8) {
		case 0:
			say("Service %s", replace(c, ch.Services, c.now.Services, to.Services))
		case 1, 2:
			say("HTTPRoute %s", replace(c, ch.HTTPRoutes, c.now.HTTPRoutes, to.HTTPRoutes))
		case 3:
			say("GRPCRoute %s", replace(c, ch.GRPCRoutes, c.now.GRPCRoutes, to.GRPCRoutes))
		case 4:
			say("MeshPolicy %s", replace(c, ch.MeshPolicies, c.now.MeshPolicies, to.MeshPolicies))
		case 5:
			say("MeshAuthorization %s", replace(c, ch.MeshAuthorizations, c.now.MeshAuthorizations, to.MeshAuthorizations))
		case 6:
			name := anyKey(c, to.EndpointSlices)
			if c.IntN(3) > 0 {
				c.now.EndpointSlices[name] = to.EndpointSlices[name]
			} else {
				delete(c.now.EndpointSlices, name)
			}
			ch.EndpointSlices[name] = c.now.EndpointSlices[name]
			say("EndpointSlices of %s", name)
		default:
			say("%s", c.changeSettings(&ch, numbers))
		}
	}
	return ch, strings.Join(what, ", ")
}

// replace takes one object to another state, or away, and returns its name.
func replace[T any](c *changing, ch, now, to map[types.NamespacedName]*T) types.NamespacedName {
	name := anyKey(c, to)
	if c.IntN(4) == 0 {
		delete(now, name)
	} else {
		now[name] = to[name]
	}
	ch[name] = now[name]
	return name
}

func anyKey[T any](c *changing, in map[types.NamespacedName]T) types.NamespacedName {
	names := slices.SortedFunc(maps.Keys(in), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	if near := slices.DeleteFunc(slices.Clone(names), func(n types.NamespacedName) bool { return n.Namespace != c.focus }); len(near) > 0 && c.IntN(4) > 0 {
		names = near
	}
	return names[c.IntN(len(names))]
}

func (c *changing) changeSettings(ch *compile.Changes, numbers compile.Numbers) string {
	switch c.IntN(8) {
	case 0: // a namespace comes into the mesh or leaves it
		c.settings.Namespaces = slices.Clone(c.settings.Namespaces)
		at := c.IntN(len(c.settings.Namespaces))
		ns := c.settings.Namespaces[at].DeepCopy()
		ns.Labels = map[string]string{meshv1alpha1.EnabledLabel: []string{"true", "false"}[c.IntN(2)]}
		c.settings.Namespaces[at] = ns
	case 1:
		c.settings.Starting = map[string]bool{"a": c.IntN(2) == 0, "b": c.IntN(2) == 0}
	case 2:
		c.settings.TrustBundle = fmt.Sprint("bundle ", c.IntN(3))
	case 3:
		c.settings.Mesh = c.mesh()
	case 4:
		c.settings.ServiceAccounts = oneFrom(c, nil, map[types.NamespacedName]bool{}, map[types.NamespacedName]bool{
			{Namespace: "a", Name: "x"}: true, {Namespace: "b", Name: strconv.Itoa(c.IntN(2))}: true,
		})
	case 5:
		c.settings.KeySets = map[compile.KeySource]compile.KeySet{}
		for _, a := range c.now.MeshAuthorizations {
			for source := range compile.KeySources(compile.Snapshot{Namespaces: c.settings.Namespaces, MeshAuthorizations: []*meshv1alpha1.MeshAuthorization{a}}) {
				c.settings.KeySets[source] = compile.KeySet{Problem: fmt.Sprint("problem ", c.IntN(2))}
			}
		}
	case 6:
		c.settings.Deleted = c.IntN(2) == 0
	default: // numbers that may be given out again, of destinations that are there as well
		keys := slices.SortedFunc(maps.Keys(numbers), func(a, b compile.NumberKey) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
		for _, key := range keys {
			if c.IntN(3) == 0 {
				delete(numbers, key)
				ch.Numbers = append(ch.Numbers, key)
			}
		}
		return fmt.Sprint("numbers of ", ch.Numbers)
	}
	settings := c.settings
	ch.Settings = &settings
	return "settings"
}

// mesh is another Mesh: with other defaults, or with something else that authorizations alone depend on.
func (c *changing) mesh() *meshv1alpha1.Mesh {
	if c.IntN(2) == 0 {
		return randomSnapshot(c.Int64N(1000)).Mesh
	}
	mesh := c.settings.Mesh.DeepCopy()
	mesh.Spec.JWKS.Hosts = oneFrom(c, nil, []meshv1alpha1.JWKSHost{{Host: "login.example", PlainText: new(true)}})
	return mesh
}

func indexed(r compile.Result) (
	map[compile.Target]compile.RouteStatus, map[types.NamespacedName]compile.PolicyStatus,
	map[types.NamespacedName]compile.AuthorizationStatus, map[string][]compile.Exposure,
) {
	routes := map[compile.Target]compile.RouteStatus{}
	for _, s := range r.Routes {
		routes[compile.Target{Kind: string(s.Kind), Namespace: s.Name.Namespace, Name: s.Name.Name}] = s
	}
	policies := map[types.NamespacedName]compile.PolicyStatus{}
	for _, s := range r.Policies {
		policies[s.Name] = s
	}
	authorizations := map[types.NamespacedName]compile.AuthorizationStatus{}
	for _, s := range r.Authorizations {
		authorizations[s.Name] = s
	}
	exposures := map[string][]compile.Exposure{}
	for _, e := range r.Exposures {
		exposures[e.Namespace] = append(exposures[e.Namespace], e)
	}
	return routes, policies, authorizations, exposures
}

func newTold() told {
	return told{
		resources: map[wire.Ref]wire.Resource{}, routes: map[compile.Target]compile.RouteStatus{},
		policies:       map[types.NamespacedName]compile.PolicyStatus{},
		authorizations: map[types.NamespacedName]compile.AuthorizationStatus{}, exposures: map[string][]compile.Exposure{},
	}
}

// repeated says what a delta has that was known.
func (s *told) repeated(d compile.Delta) string {
	for ref, now := range d.Resources {
		was, known := s.resources[ref]
		if now == nil && !known || now != nil && known && now.Version == was.Version && now.Scope == was.Scope && now.Origin == was.Origin {
			return fmt.Sprintf("the delta has %s, which has not changed", ref)
		}
	}
	return ""
}

// take takes a delta and says what is wrong with it, if it does not lead to a result.
func (s *told) take(d compile.Delta, r compile.Result) string {
	merge(s.resources, d.Resources)
	merge(s.routes, d.Routes)
	merge(s.policies, d.Policies)
	merge(s.authorizations, d.Authorizations)
	for namespace, list := range d.Exposures {
		if len(list) == 0 {
			delete(s.exposures, namespace)
		} else {
			s.exposures[namespace] = list
		}
	}
	resources := map[wire.Ref]wire.Resource{}
	for _, resource := range r.Resources {
		resources[resource.Ref] = resource
	}
	want := told{resources: resources}
	want.routes, want.policies, want.authorizations, want.exposures = indexed(r)
	for _, diff := range []string{
		differ(want.resources, s.resources), differ(want.routes, s.routes), differ(want.policies, s.policies),
		differ(want.authorizations, s.authorizations), differ(want.exposures, s.exposures),
	} {
		if diff != "" {
			return "the deltas come to something else (-result +deltas):\n" + diff
		}
	}
	return ""
}

func merge[K comparable, V any](into map[K]V, changes map[K]*V) {
	for key, v := range changes {
		if v == nil {
			delete(into, key)
		} else {
			into[key] = *v
		}
	}
}
