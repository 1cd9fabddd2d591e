package webhooks

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// large is a mesh of namespaces with 50 Services, routes and policies each.
func large(namespaces int) compile.Snapshot {
	var s compile.Snapshot
	protocol, group, kind, port := "http", gwv1.Group(""), gwv1.Kind("Service"), gwv1.PortNumber(80)
	for n := range namespaces {
		namespace := fmt.Sprintf("team-%d", n)
		s.Namespaces = append(s.Namespaces, &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}},
		})
		for i := range 50 {
			meta := metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("app-%d", i)}
			name := gwv1.ObjectName(meta.Name)
			s.Services = append(s.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
				ClusterIP: fmt.Sprintf("10.%d.0.%d", n, i+1), Ports: []corev1.ServicePort{{Port: 80, AppProtocol: &protocol}},
			}})
			s.HTTPRoutes = append(s.HTTPRoutes, &gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{
				CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Group: &group, Kind: &kind, Name: name}}},
				Rules: []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{
					BackendObjectReference: gwv1.BackendObjectReference{Name: name, Port: &port},
				}}}}},
			}})
			timeout := gwv1.Duration("3s")
			s.MeshPolicies = append(s.MeshPolicies, &meshv1alpha1.MeshPolicy{ObjectMeta: meta, Spec: meshv1alpha1.MeshPolicySpec{
				TargetRefs: []gwv1.LocalPolicyTargetReferenceWithSectionName{{
					LocalPolicyTargetReference: gwv1.LocalPolicyTargetReference{Group: group, Kind: kind, Name: name},
				}},
				TrafficPolicy: meshv1alpha1.TrafficPolicy{Timeouts: &meshv1alpha1.Timeouts{Request: &timeout}},
			}})
		}
	}
	return s
}

// BenchmarkValidate is what a question costs among 5,000 routes, with what is read for it, beside one pass over all of
// them.
func BenchmarkValidate(b *testing.B) {
	s := large(100)
	cluster := newStored(s)
	for name, object := range map[string]metav1.Object{"route": s.HTTPRoutes[2500], "policy": s.MeshPolicies[2500]} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				part, err := readPart(b.Context(), cluster, "weft", object)
				if err != nil {
					b.Fatal(err)
				}
				if errs, warnings := Validate(object, part); len(errs)+len(warnings) > 0 {
					b.Fatal(errs, warnings)
				}
			}
		})
	}
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			compile.Compile(s)
		}
	})
}
