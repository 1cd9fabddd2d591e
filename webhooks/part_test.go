package webhooks

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// verdict is what Validate says.
type verdict struct{ Refused, Warned []string }

func verdictOf(object metav1.Object, s compile.Snapshot) (v verdict) {
	errs, warnings := Validate(object, s)
	for _, err := range errs {
		v.Refused = append(v.Refused, err.Error())
	}
	v.Warned = warnings
	return v
}

// compareParts compares what is said about objects by the whole of a snapshot and by what is read for each.
func compareParts(t *testing.T, name string, s compile.Snapshot, objects []metav1.Object) (said []string) {
	t.Helper()
	cluster := newStored(s)
	for _, object := range objects {
		part, err := readPart(t.Context(), cluster, s.SystemNamespace, object)
		if err != nil {
			t.Fatal(err)
		}
		whole := verdictOf(object, s)
		if diff := cmp.Diff(whole, verdictOf(object, part)); diff != "" {
			t.Errorf("%s: %T %s (-whole +part):\n%s", name, object, nameOf(object), diff)
		}
		said = append(said, slices.Concat(whole.Refused, whole.Warned)...)
	}
	return said
}

// TestPartsSayTheSame: what is said about an object that is made or changed depends on nothing but what readPart reads,
// in meshes made at random in which everything meets.
func TestPartsSayTheSame(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seeds from %d", seed)
	// A test in which something is never said would not notice that it is said wrongly.
	unsaid := []string{
		"BackendNotFound", "Conflicted", "NamespaceNotEnrolled", "does not say that it speaks HTTP", "gRPC needs HTTP/2",
		"becomes invalid by this", "is by this no longer for", "is by this also for", "it holds for", "it does not hold for",
		"spec.mtls.mode=Strict refuses", "spec.defaults.mtls.mode=Strict refuses", "spec.mode=Enforce refuses",
		"replaces the header", "is longer than timeouts.request", "being as old", "is being removed",
	}
	meshes := uint64(0)
	for start := time.Now(); (time.Since(start) < 4*time.Second || len(unsaid) > 0) && !t.Failed(); meshes++ {
		if meshes == 5000 {
			t.Errorf("of %d meshes none has led to %q", meshes, unsaid)
		}
		random := &mixed{rand.New(rand.NewPCG(seed+meshes, 1)), meshes%2 > 0}
		s, next := random.mesh(), random.mesh()
		for _, text := range compareParts(t, fmt.Sprintf("seed %d of %+v", seed+meshes, *random), s, objectsOf(next)) {
			unsaid = slices.DeleteFunc(unsaid, func(part string) bool { return strings.Contains(text, part) })
		}
	}
	t.Logf("%d meshes", meshes)
}

func objectsOf(s compile.Snapshot) []metav1.Object {
	var all []metav1.Object
	if s.Mesh != nil {
		all = append(all, s.Mesh)
	}
	for _, o := range s.HTTPRoutes {
		all = append(all, o)
	}
	for _, o := range s.GRPCRoutes {
		all = append(all, o)
	}
	for _, o := range s.MeshPolicies {
		all = append(all, o)
	}
	for _, o := range s.MeshAuthorizations {
		all = append(all, o)
	}
	return all
}

// mixed makes meshes at random: few names, so that objects refer to each other. Where they are sparse, with routes that
// refer to little each, what a part lacks is not there by chance.
type mixed struct {
	*rand.Rand
	sparse bool
}

func from[T any](m *mixed, values ...T) T { return values[m.IntN(len(values))] }

// sometimes returns a pointer to one of several values, or nil.
func sometimes[T any](m *mixed, values ...T) *T {
	if m.IntN(2) == 0 {
		return nil
	}
	return new(from(m, values...))
}

func (m *mixed) mesh() compile.Snapshot {
	s := compile.Snapshot{SystemNamespace: "weft", Mesh: m.settings()}
	weft := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "weft"}}
	if m.IntN(20) == 0 {
		weft.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	}
	s.Namespaces = append(s.Namespaces, weft)
	traffic := m.IntN(2) == 0
	for _, in := range []string{"a", "b", "c"} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: in}}
		if in != "c" || m.IntN(4) == 0 {
			namespace.Labels = map[string]string{meshv1alpha1.EnabledLabel: "true"}
		}
		s.Namespaces = append(s.Namespaces, namespace)
		meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: in, Name: name} }
		for _, name := range []string{"x", "y", "z"} {
			if m.IntN(8) > 0 {
				s.Services = append(s.Services, m.service(meta(name)))
			}
		}
		for _, name := range []string{"r", "s"} {
			if m.IntN(4) > 0 {
				s.HTTPRoutes = append(s.HTTPRoutes, m.httpRoute(meta(name)))
			}
			if m.IntN(2) > 0 {
				s.GRPCRoutes = append(s.GRPCRoutes, m.grpcRoute(meta(name)))
			}
		}
		for _, name := range []string{"p", "q"} {
			if m.IntN(4) > 0 && (!m.sparse || traffic) {
				s.MeshPolicies = append(s.MeshPolicies, &meshv1alpha1.MeshPolicy{
					ObjectMeta: meta(name), Spec: meshv1alpha1.MeshPolicySpec{TargetRefs: m.targets(), TrafficPolicy: m.traffic()},
				})
			}
			if m.IntN(4) > 0 && (!m.sparse || !traffic) {
				s.MeshAuthorizations = append(s.MeshAuthorizations, m.authorization(meta(name)))
			}
		}
	}
	return s
}

// settings are a Mesh that knows of callers past the mesh.
func (m *mixed) settings() *meshv1alpha1.Mesh {
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	if m.IntN(3) == 0 {
		mesh.Spec.Defaults = new(m.traffic())
	}
	for _, in := range []string{"a", "b"} {
		callers := meshv1alpha1.NamespacePlainCallers{Namespace: in}
		for _, service := range []string{"x", "y", "z"} {
			if m.IntN(2) == 0 {
				callers.Top = append(callers.Top, meshv1alpha1.PlainCaller{Caller: "192.0.2.1", Service: service + ":80"})
			}
		}
		mesh.Status.PlainCallers = append(mesh.Status.PlainCallers, callers)
	}
	return mesh
}

func (m *mixed) service(meta metav1.ObjectMeta) *corev1.Service {
	spec := corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{
		{Name: "web", Port: 80, AppProtocol: from(m, nil, new("http"))},
	}}
	if !m.sparse {
		spec.Ports[0].AppProtocol = from(m, nil, nil, nil, new("http"), new("kubernetes.io/h2c"), new("tcp"))
		spec.ClusterIP = from(m, "10.0.0.1", "10.0.0.1", "10.0.0.1", "None")
	}
	return &corev1.Service{ObjectMeta: meta, Spec: spec}
}

func (m *mixed) common() gwv1.CommonRouteSpec {
	var spec gwv1.CommonRouteSpec
	for range m.several(1) {
		ref := gwv1.ParentReference{Name: from[gwv1.ObjectName](m, "x", "y", "z"), Namespace: sometimes[gwv1.Namespace](m, "a", "b", "c")}
		if m.IntN(8) > 0 {
			ref.Group, ref.Kind = new(gwv1.Group("")), new(gwv1.Kind("Service"))
		}
		spec.ParentRefs = append(spec.ParentRefs, ref)
	}
	return spec
}

func (m *mixed) backend() gwv1.BackendObjectReference {
	return gwv1.BackendObjectReference{
		Name: from[gwv1.ObjectName](m, "x", "y", "z"), Namespace: sometimes[gwv1.Namespace](m, "a", "b", "c"), Port: new(gwv1.PortNumber(80)),
	}
}

// several is how many there are of something, from the least to two more or, where it is sparse, one or the least.
func (m *mixed) several(least int) int {
	if m.sparse {
		return max(least, m.IntN(2))
	}
	return least + m.IntN(3)
}

// some calls f as often as there is something, at least once.
func (m *mixed) some(f func()) {
	for range m.several(1) {
		f()
	}
}

// each calls f as often as there is something, if there is.
func (m *mixed) each(f func()) {
	for range m.several(0) {
		f()
	}
}

func (m *mixed) httpRoute(meta metav1.ObjectMeta) *gwv1.HTTPRoute {
	mirrors := func() (filters []gwv1.HTTPRouteFilter) {
		if m.IntN(5) == 0 {
			filters = append(filters, gwv1.HTTPRouteFilter{
				Type: gwv1.HTTPRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: m.backend()},
			})
		}
		return filters
	}
	route := &gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: m.common()}}
	m.some(func() {
		rule := gwv1.HTTPRouteRule{Name: sometimes[gwv1.SectionName](m, "http"), Filters: mirrors()}
		m.each(func() {
			rule.Matches = append(rule.Matches, gwv1.HTTPRouteMatch{
				Method:  sometimes(m, gwv1.HTTPMethodGet),
				Path:    &gwv1.HTTPPathMatch{Type: new(from(m, gwv1.PathMatchPathPrefix, gwv1.PathMatchPathPrefix, gwv1.PathMatchRegularExpression)), Value: new("/a")},
				Headers: from(m, nil, []gwv1.HTTPHeaderMatch{{Name: "x-user", Value: "a"}}),
			})
		})
		m.some(func() {
			rule.BackendRefs = append(rule.BackendRefs, gwv1.HTTPBackendRef{
				BackendRef: gwv1.BackendRef{BackendObjectReference: m.backend()}, Filters: mirrors(),
			})
		})
		route.Spec.Rules = append(route.Spec.Rules, rule)
	})
	return route
}

func (m *mixed) grpcRoute(meta metav1.ObjectMeta) *gwv1.GRPCRoute {
	mirrors := func() (filters []gwv1.GRPCRouteFilter) {
		if m.IntN(5) == 0 {
			filters = append(filters, gwv1.GRPCRouteFilter{
				Type: gwv1.GRPCRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: m.backend()},
			})
		}
		return filters
	}
	route := &gwv1.GRPCRoute{ObjectMeta: meta, Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: m.common()}}
	m.some(func() {
		rule := gwv1.GRPCRouteRule{Name: sometimes[gwv1.SectionName](m, "http"), Filters: mirrors()}
		m.each(func() {
			rule.Matches = append(rule.Matches, gwv1.GRPCRouteMatch{
				Headers: from(m, nil, []gwv1.GRPCHeaderMatch{{Name: "x-user", Value: "a"}}),
			})
		})
		m.some(func() {
			rule.BackendRefs = append(rule.BackendRefs, gwv1.GRPCBackendRef{
				BackendRef: gwv1.BackendRef{BackendObjectReference: m.backend()}, Filters: mirrors(),
			})
		})
		route.Spec.Rules = append(route.Spec.Rules, rule)
	})
	return route
}

// targets are those of a policy.
func (m *mixed) targets() (refs []gwv1.LocalPolicyTargetReferenceWithSectionName) {
	m.each(func() {
		ref := gwv1.LocalPolicyTargetReference{Kind: "Service", Name: from[gwv1.ObjectName](m, "x", "y", "z")}
		if m.IntN(2) == 0 {
			ref = gwv1.LocalPolicyTargetReference{
				Group: gwv1.GroupName, Kind: from[gwv1.Kind](m, "HTTPRoute", "GRPCRoute"), Name: from[gwv1.ObjectName](m, "r", "s"),
			}
		}
		refs = append(refs, gwv1.LocalPolicyTargetReferenceWithSectionName{
			LocalPolicyTargetReference: ref, SectionName: from(m, nil, nil, new(gwv1.SectionName("http")), new(gwv1.SectionName("web"))),
		})
	})
	return refs
}

func (m *mixed) traffic() meshv1alpha1.TrafficPolicy {
	return from(m,
		meshv1alpha1.TrafficPolicy{MTLS: &meshv1alpha1.MTLS{Mode: from(m, meshv1alpha1.MTLSStrict, meshv1alpha1.MTLSPermissive)}},
		meshv1alpha1.TrafficPolicy{Timeouts: &meshv1alpha1.Timeouts{Request: new(from[gwv1.Duration](m, "1s", "2s"))}},
		meshv1alpha1.TrafficPolicy{Timeouts: &meshv1alpha1.Timeouts{BackendRequest: new(from[gwv1.Duration](m, "3s", "4s"))}},
	)
}

func (m *mixed) authorization(meta metav1.ObjectMeta) *meshv1alpha1.MeshAuthorization {
	a := &meshv1alpha1.MeshAuthorization{ObjectMeta: meta, Spec: meshv1alpha1.MeshAuthorizationSpec{
		TargetRefs: m.targets(), Action: from(m, meshv1alpha1.AuthorizationAllow, meshv1alpha1.AuthorizationDeny),
		Mode:  from(m, meshv1alpha1.AuthorizationEnforce, meshv1alpha1.AuthorizationEnforce, meshv1alpha1.AuthorizationAudit),
		Rules: []meshv1alpha1.AuthorizationRule{{From: []meshv1alpha1.AuthorizationSource{{Namespaces: []gwv1.Namespace{"a"}}}}},
	}}
	if m.IntN(4) == 0 {
		a.Spec.JWT = &meshv1alpha1.AuthorizationJWT{Issuers: []meshv1alpha1.JWTIssuer{{
			Issuer: "https://login.example", JWKS: meshv1alpha1.JWKSSource{URL: "https://login.example/keys"},
			ClaimsToHeaders: []meshv1alpha1.ClaimToHeader{{Header: "x-user", Claim: []string{"sub"}}},
		}}}
	}
	return a
}
