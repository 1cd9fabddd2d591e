package compile_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/randfill"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// FuzzCompile compiles routes, policies and Services filled at random, most of which no API server would take:
// nothing panics, the order of lists does not matter, the input stays, and the result holds together.
func FuzzCompile(f *testing.F) {
	for seed := range int64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		snapshot := randomSnapshot(seed)
		unchanged := deepCopy(snapshot)
		result := compile.Compile(snapshot)
		if diff := differ(unchanged, snapshot); diff != "" {
			t.Errorf("Compile changed its input (-before +after):\n%s", diff)
		}
		again := compile.Compile(shuffled(snapshot, rand.New(rand.NewPCG(uint64(seed), 0))))
		if diff := differ(result, again); diff != "" {
			t.Errorf("the order of lists matters (-first +shuffled):\n%s", diff)
		}
		checkResult(t, result)
	})
}

func randomSnapshot(seed int64) compile.Snapshot {
	fill := filler(seed)
	snapshot := compile.Snapshot{SystemNamespace: "weft-system"}
	for _, name := range []string{"a", "b", "c"} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name != "c" {
			namespace.Labels = map[string]string{"mesh.weft.dev/enabled": "true"}
		}
		snapshot.Namespaces = append(snapshot.Namespaces, namespace)
		for _, service := range []string{"x", "y"} {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: service}}
			fill.Fill(&svc.Spec)
			snapshot.Services = append(snapshot.Services, svc)
		}
		for _, route := range []string{"r", "s"} {
			http := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: route, Generation: 2}}
			fill.Fill(&http.Spec)
			grpc := &gwv1.GRPCRoute{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: route, Generation: 3}}
			fill.Fill(&grpc.Spec)
			snapshot.HTTPRoutes = append(snapshot.HTTPRoutes, http)
			snapshot.GRPCRoutes = append(snapshot.GRPCRoutes, grpc)
		}
		for i, policy := range []string{"p", "q", "r"} {
			object := &meshv1alpha1.MeshPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: policy, Generation: int64(i)}}
			fill.Fill(&object.Spec)
			fill.Fill(&object.Status.InForce)
			snapshot.MeshPolicies = append(snapshot.MeshPolicies, object)
			authorization := &meshv1alpha1.MeshAuthorization{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: policy, Generation: int64(i)}}
			fill.Fill(&authorization.Spec)
			snapshot.MeshAuthorizations = append(snapshot.MeshAuthorizations, authorization)
		}
	}
	snapshot.Mesh = &meshv1alpha1.Mesh{}
	fill.Fill(&snapshot.Mesh.Spec.Defaults)
	return snapshot
}

// filler fills the types of routes, policies and Services with values that mostly make sense, so that what is
// behind a check is reached, and sometimes do not.
func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(0.4).NumElements(0, 3).Funcs(
		mostly[string]("/a", "", "http", "/a/", "a", "(", "a\nb", "%00"),
		mostly[gwv1.Group]("", "core", "example.com"),
		mostly[gwv1.Kind]("Service", "Gateway"),
		oneOf[gwv1.ObjectName]("x", "y", "y", "x", "z"),
		oneOf[gwv1.Namespace]("a", "b", "c"),
		mostly[gwv1.SectionName]("", "http", "grpc"),
		mostly[int32](80, 443, 50, 0, -1, 70000),
		mostly[gwv1.Duration]("1s", "10s", "0s", "1d"),
		mostly[gwv1.PathMatchType](gwv1.PathMatchPathPrefix, gwv1.PathMatchExact, gwv1.PathMatchRegularExpression, "Glob"),
		mostly[gwv1.HeaderMatchType](gwv1.HeaderMatchExact, gwv1.HeaderMatchRegularExpression, "Glob"),
		mostly[gwv1.QueryParamMatchType](gwv1.QueryParamMatchExact, gwv1.QueryParamMatchRegularExpression, "Glob"),
		mostly[gwv1.GRPCMethodMatchType](gwv1.GRPCMethodMatchRegularExpression, gwv1.GRPCMethodMatchExact, "Glob"),
		mostly[gwv1.GRPCHeaderMatchType](gwv1.GRPCHeaderMatchExact, gwv1.GRPCHeaderMatchRegularExpression, "Glob"),
		mostly[gwv1.HTTPHeaderName]("x-a", "X-A", "x-b", "host", "te", "not a token"),
		mostly[gwv1.GRPCHeaderName]("x-a", "X-A", ""),
		mostly[gwv1.PreciseHostname]("a.example", "a/b"),
		mostly[gwv1.HTTPMethod]("GET", "POST", "get"),
		mostly[gwv1.CORSOrigin]("https://a", "*", "https://*.a:1", "a"),
		mostly[gwv1.HTTPMethodWithWildcard]("GET", "*", ""),
		mostly[gwv1.HTTPRouteRetryStatusCode](500, 503, 200),
		mostly[int](302, 1, 0, -1),
		func(ref *gwv1.ParentReference, c randfill.Continue) {
			c.FillNoCustom(ref)
			ref.Group, ref.Kind = new(gwv1.Group("")), new(gwv1.Kind("Service"))
		},
		func(spec *corev1.ServiceSpec, c randfill.Continue) {
			names := []string{"http", "grpc", "", "tcp", "web"}
			spec.Ports = []corev1.ServicePort{{Name: pick(c, names), Port: 80}, {Name: pick(c, names), Port: 443}, {Port: 53, Protocol: corev1.ProtocolUDP}}
			spec.ClusterIP = mostOf(c, []string{"10.0.0.1", "None", "", "not an address"})
			spec.Type = mostOf(c, []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName})
			spec.SessionAffinity = mostOf(c, []corev1.ServiceAffinity{corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP})
		},
		mostly[gwv1.SessionPersistenceType](gwv1.CookieBasedSessionPersistence, gwv1.HeaderBasedSessionPersistence, "Query"),
		mostly[gwv1.CookieLifetimeType](gwv1.SessionCookieLifetimeType, gwv1.PermanentCookieLifetimeType, "Week"),
		mostly[gwv1.CookieName]("session", "", "a b", "__Host-a"),
		mostly[gwv1.HeaderName]("session", "te", "", "Cookie"),
		func(ref *gwv1.LocalPolicyTargetReferenceWithSectionName, c randfill.Continue) {
			c.FillNoCustom(ref)
			if ref.Kind = pick(c, []gwv1.Kind{"Service", "HTTPRoute", "GRPCRoute", "HTTPRoute", "Service", "Pod"}); ref.Kind != "Service" {
				ref.Group, ref.Name = gwv1.GroupName, pick(c, []gwv1.ObjectName{"r", "s", "x"})
			}
		},
		mostly[meshv1alpha1.GRPCCode]("UNAVAILABLE", "ABORTED", "OK"),
		mostly[meshv1alpha1.RetryMethods]("", "All", "Idempotent", "Some"),
		mostly[meshv1alpha1.Algorithm]("", "PeakEWMA", "ConsistentHash", "Fast"),
		mostly[meshv1alpha1.HashType]("SourceAddress", "Header", "Color"),
		mostly[meshv1alpha1.HealthCheckType]("HTTP", "GRPC", "TCP", "UDP"),
		mostly[meshv1alpha1.RateLimitKeyType]("Identity", "Header", "Path", "Color"),
		func(m *gwv1.HTTPPathModifier, c randfill.Continue) {
			c.FillNoCustom(m)
			m.Type = gwv1.FullPathHTTPPathModifier
			if m.ReplaceFullPath == nil {
				m.Type = mostOf(c, []gwv1.HTTPPathModifierType{gwv1.PrefixMatchHTTPPathModifier, "Regex"})
			}
		},
		func(f *gwv1.HTTPRouteFilter, c randfill.Continue) {
			c.FillNoCustom(f)
			f.Type = filterType(c, f)
		},
		func(f *gwv1.GRPCRouteFilter, c randfill.Continue) {
			c.FillNoCustom(f)
			f.Type = gwv1.GRPCRouteFilterType(filterType(c, &gwv1.HTTPRouteFilter{
				RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier,
				RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
			}))
		},
	)
}

// filterType returns the type of some content that a filter has, and now and then one without content.
func filterType(c randfill.Continue, f *gwv1.HTTPRouteFilter) gwv1.HTTPRouteFilterType {
	var present []gwv1.HTTPRouteFilterType
	for kind, has := range map[gwv1.HTTPRouteFilterType]bool{
		gwv1.HTTPRouteFilterRequestHeaderModifier:  f.RequestHeaderModifier != nil,
		gwv1.HTTPRouteFilterResponseHeaderModifier: f.ResponseHeaderModifier != nil,
		gwv1.HTTPRouteFilterRequestRedirect:        f.RequestRedirect != nil,
		gwv1.HTTPRouteFilterURLRewrite:             f.URLRewrite != nil,
		gwv1.HTTPRouteFilterRequestMirror:          f.RequestMirror != nil,
		gwv1.HTTPRouteFilterCORS:                   f.CORS != nil,
	} {
		if has {
			present = append(present, kind)
		}
	}
	slices.Sort(present)
	if len(present) > 0 && c.Intn(8) > 0 {
		return pick(c, present)
	}
	return pick(c, []gwv1.HTTPRouteFilterType{
		gwv1.HTTPRouteFilterRequestHeaderModifier, gwv1.HTTPRouteFilterRequestRedirect, gwv1.HTTPRouteFilterCORS,
		gwv1.HTTPRouteFilterExternalAuth, gwv1.HTTPRouteFilterExtensionRef, "Compress",
	})
}

func oneOf[T any](values ...T) func(*T, randfill.Continue) {
	return func(v *T, c randfill.Continue) { *v = pick(c, values) }
}

// mostly fills a type with the first value most of the time.
func mostly[T any](values ...T) func(*T, randfill.Continue) {
	return func(v *T, c randfill.Continue) { *v = mostOf(c, values) }
}

func mostOf[T any](c randfill.Continue, values []T) T {
	if c.Intn(10) > 0 {
		return values[0]
	}
	return pick(c, values)
}

func pick[T any](c randfill.Continue, values []T) T { return values[c.Intn(len(values))] }
