package testbed

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// Ports of the Services that NewService makes.
const (
	PortHTTP        = 80
	PortGRPC        = 9000
	PortLines       = 9090
	PortServerFirst = 9091
)

// NewService returns a Service of both address families with a port for everything an App speaks. An
// empty selector selects nothing.
func NewService(namespace, name string, selector map[string]string) *corev1.Service {
	dual := corev1.IPFamilyPolicyRequireDualStack
	port := func(name string, number, target int32, protocol string) corev1.ServicePort {
		p := corev1.ServicePort{Name: name, Port: number, TargetPort: intstr.FromInt32(target)}
		if protocol != "" {
			p.AppProtocol = &protocol
		}
		return p
	}
	return &corev1.Service{
		ObjectMeta: objectMeta(namespace, name),
		Spec: corev1.ServiceSpec{
			Selector: selector, IPFamilyPolicy: &dual,
			Ports: []corev1.ServicePort{
				port("http", PortHTTP, 8080, "http"),
				port("grpc", PortGRPC, 9000, "kubernetes.io/h2c"),
				port("tcp-lines", PortLines, 9090, ""),
				port("tcp-first", PortServerFirst, 9091, ""),
			},
		},
	}
}

// HTTPRoute reads an HTTPRoute. Fields that do not exist fail the test.
func HTTPRoute(t testing.TB, namespace, text string) *gwv1.HTTPRoute {
	t.Helper()
	return read(t, namespace, text, &gwv1.HTTPRoute{})
}

// GRPCRoute reads a GRPCRoute. Fields that do not exist fail the test.
func GRPCRoute(t testing.TB, namespace, text string) *gwv1.GRPCRoute {
	t.Helper()
	return read(t, namespace, text, &gwv1.GRPCRoute{})
}

// MeshPolicy reads a MeshPolicy. Fields that do not exist fail the test.
func MeshPolicy(t testing.TB, namespace, text string) *meshv1alpha1.MeshPolicy {
	t.Helper()
	return read(t, namespace, text, &meshv1alpha1.MeshPolicy{})
}

// MeshAuthorization reads a MeshAuthorization. Fields that do not exist fail the test.
func MeshAuthorization(t testing.TB, namespace, text string) *meshv1alpha1.MeshAuthorization {
	t.Helper()
	return read(t, namespace, text, &meshv1alpha1.MeshAuthorization{})
}

// Enforce creates a policy and waits until every proxy concerned has it.
func (b *Bed) Enforce(t testing.TB, policy *meshv1alpha1.MeshPolicy) {
	t.Helper()
	b.Create(t, policy)
	Await(t, b, policy, func(p *meshv1alpha1.MeshPolicy) string {
		c := meta.FindStatusCondition(p.Status.Conditions, meshv1alpha1.PolicyProgrammed)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.Generation {
			return fmt.Sprintf("not programmed: %+v", p.Status.Conditions)
		}
		return ""
	})
}

func read[T client.Object](t testing.TB, namespace, text string, o T) T {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	o.SetNamespace(namespace)
	return o
}

// Parents returns a route's entries of ours, in the order of the status.
func Parents(route client.Object) []gwv1.RouteParentStatus {
	var all, own []gwv1.RouteParentStatus
	switch r := route.(type) {
	case *gwv1.HTTPRoute:
		all = r.Status.Parents
	case *gwv1.GRPCRoute:
		all = r.Status.Parents
	}
	for _, p := range all {
		if p.ControllerName == meshv1alpha1.ControllerName {
			own = append(own, p)
		}
	}
	return own
}

// Programmed says what keeps a route from being programmed in its present generation for all its
// parents, or "".
func Programmed(route client.Object) string {
	parents := Parents(route)
	if len(parents) == 0 {
		return "no status"
	}
	for _, p := range parents {
		c := meta.FindStatusCondition(p.Conditions, "Programmed")
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != route.GetGeneration() {
			return fmt.Sprintf("not programmed in generation %d: %s", route.GetGeneration(), Describe(p.Conditions))
		}
	}
	return ""
}

// Describe formats conditions for messages.
func Describe(conditions []metav1.Condition) string {
	var text strings.Builder
	for _, c := range conditions {
		fmt.Fprintf(&text, "\n\t%s=%s %s (generation %d): %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
	return text.String()
}

// Program creates a route that lives as long as the test and waits until it is programmed.
func (b *Bed) Program(t testing.TB, route client.Object) {
	t.Helper()
	b.Create(t, route)
	b.AwaitProgrammed(t, route)
}

// AwaitProgrammed waits until a route is programmed in the generation that it has now.
func (b *Bed) AwaitProgrammed(t testing.TB, route client.Object) {
	t.Helper()
	Await(t, b, route, Programmed)
}

// Settled waits until a route has a status for its present generation, whatever it says, and returns the
// conditions of its first parent of ours.
func (b *Bed) Settled(t testing.TB, route client.Object) []metav1.Condition {
	t.Helper()
	Await(t, b, route, func(route client.Object) string {
		parents := Parents(route)
		if len(parents) == 0 {
			return "no status"
		}
		for _, c := range parents[0].Conditions {
			if c.ObservedGeneration != route.GetGeneration() || c.Reason == "Pending" {
				return "not settled: " + Describe(parents[0].Conditions)
			}
		}
		return ""
	})
	return Parents(route)[0].Conditions
}

// WaitReady waits until the Mesh says that the control plane serves and capture is proven.
func (b *Bed) WaitReady(ctx context.Context) error {
	mesh := &meshv1alpha1.Mesh{ObjectMeta: objectMeta("", meshv1alpha1.MeshName)}
	return Poll(ctx, func(ctx context.Context) error {
		if err := b.Client.Get(ctx, client.ObjectKeyFromObject(mesh), mesh); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(mesh.Status.Conditions, meshv1alpha1.MeshReady) {
			return fmt.Errorf("the mesh is not ready: %s", Describe(mesh.Status.Conditions))
		}
		return nil
	})
}

// Number returns the destination number of a Service's port.
func (b *Bed) Number(t testing.TB, service *corev1.Service, port uint16) uint16 {
	t.Helper()
	cm := &corev1.ConfigMap{}
	if err := b.Client.Get(t.Context(), client.ObjectKey{Namespace: SystemNamespace, Name: "weft-destinations"}, cm); err != nil {
		t.Fatal(err)
	}
	// A record is the Service's UID, its port and the number.
	for record := range slices.Chunk(cm.BinaryData["numbers"], 20) {
		if uuid.UUID(record[:16]).String() == string(service.UID) && binary.BigEndian.Uint16(record[16:]) == port {
			return binary.BigEndian.Uint16(record[18:])
		}
	}
	t.Fatalf("port %d of Service %s has no number", port, service.Name)
	return 0
}
