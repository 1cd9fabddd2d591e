package envtest_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// newNamespace returns a namespace that is not enrolled. At the end of the spec it is deleted, which
// nobody completes here; it leaves the mesh with that.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-"}}
	Expect(user.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(user.Delete(ctx, namespace)).To(Succeed()) })
	return namespace.Name
}

// enrolled returns a new namespace that is enrolled and has the Deployment of its proxies.
func enrolled(ctx context.Context) string {
	GinkgoHelper()
	namespace := newNamespace(ctx)
	label(ctx, namespace, "true")
	Eventually(func() error { return user.Get(ctx, client.ObjectKeyFromObject(proxies(namespace)), proxies(namespace)) }).Should(Succeed())
	return namespace
}

// label sets the label that enrols a namespace; the empty value removes it.
func label(ctx context.Context, namespace, value string) {
	GinkgoHelper()
	text := `null`
	if value != "" {
		text = fmt.Sprintf("%q", value)
	}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, meshv1alpha1.EnabledLabel, text))
	Expect(user.Patch(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, patch)).To(Succeed())
}

// proxies is the Deployment of a namespace's proxies, to be read.
func proxies(namespace string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: meshv1alpha1.ProxyName}}
}

// newService creates a Service with one HTTP port, 80, changed by change if that is not nil.
func newService(ctx context.Context, namespace, name string, change func(*corev1.Service)) *corev1.Service {
	GinkgoHelper()
	protocol := "http"
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, AppProtocol: &protocol}}},
	}
	if change != nil {
		change(service)
	}
	Expect(user.Create(ctx, service)).To(Succeed())
	return service
}

// newSlice creates an EndpointSlice of a Service with ready endpoints at port 8080.
func newSlice(ctx context.Context, service *corev1.Service, addresses ...string) *discoveryv1.EndpointSlice {
	GinkgoHelper()
	port, none := int32(8080), ""
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace, GenerateName: service.Name + "-",
			Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &none, Port: &port}},
	}
	for _, address := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
	}
	Expect(user.Create(ctx, slice)).To(Succeed())
	return slice
}

// parentService is a parentRef that names a Service of the route's namespace.
func parentService(name string) gwv1.ParentReference {
	group, kind := gwv1.Group(""), gwv1.Kind("Service")
	return gwv1.ParentReference{Group: &group, Kind: &kind, Name: gwv1.ObjectName(name)}
}

// newRoute creates an HTTPRoute without matches that sends everything to port 80 of a Service.
func newRoute(ctx context.Context, namespace, name, backend string, parents ...gwv1.ParentReference) *gwv1.HTTPRoute {
	GinkgoHelper()
	route := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: parents},
			Rules:           []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: backendRef(backend)}}}},
		},
	}
	Expect(user.Create(ctx, route)).To(Succeed())
	return route
}

func backendRef(service string) gwv1.BackendRef {
	port := gwv1.PortNumber(80)
	return gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(service), Port: &port}}
}

// edit changes a route, whatever its status is meanwhile.
func edit(ctx context.Context, route *gwv1.HTTPRoute, change func(*gwv1.HTTPRoute)) {
	GinkgoHelper()
	before := route.DeepCopy()
	change(route)
	Expect(user.Patch(ctx, route, client.MergeFrom(before))).To(Succeed())
}

// verdicts returns a route's status as one line for each parent: its name, who says so, and the
// conditions with their reasons, as "web weft: Accepted=True/Accepted ResolvedRefs=...". Conditions
// that describe an older generation are marked as stale.
func verdicts(ctx context.Context, route client.Object) func() []string {
	return func() []string {
		there := route.DeepCopyObject().(client.Object)
		if err := user.Get(ctx, client.ObjectKeyFromObject(route), there); err != nil {
			return []string{err.Error()}
		}
		lines := []string{}
		for _, parent := range parentsOf(there) {
			who := "weft"
			if parent.ControllerName != meshv1alpha1.ControllerName {
				who = string(parent.ControllerName)
			}
			words := []string{fmt.Sprintf("%s %s:", parent.ParentRef.Name, who)}
			for _, c := range parent.Conditions {
				word := fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason)
				if c.ObservedGeneration != there.GetGeneration() {
					word += "(stale)"
				}
				words = append(words, word)
			}
			lines = append(lines, strings.Join(words, " "))
		}
		return lines
	}
}

func parentsOf(route client.Object) []gwv1.RouteParentStatus {
	if r, ok := route.(*gwv1.GRPCRoute); ok {
		return r.Status.Parents
	}
	return route.(*gwv1.HTTPRoute).Status.Parents
}

// messages returns the messages of a route's conditions of a type.
func messages(ctx context.Context, route client.Object, conditionType string) func() string {
	return func() string {
		there := route.DeepCopyObject().(client.Object)
		if err := user.Get(ctx, client.ObjectKeyFromObject(route), there); err != nil {
			return err.Error()
		}
		var texts []string
		for _, parent := range parentsOf(there) {
			for _, c := range parent.Conditions {
				if c.Type == conditionType {
					texts = append(texts, c.Message)
				}
			}
		}
		return strings.Join(texts, "\n")
	}
}

const (
	accepted   = " Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"
	pending    = accepted + " Programmed=False/Pending"
	programmed = accepted + " Programmed=True/Programmed"
)

// specified is an object of ours with a spec in YAML, which may be one that the API server refuses. It is not
// created yet.
func specified(kind, namespace, name, spec string) *unstructured.Unstructured {
	GinkgoHelper()
	object := &unstructured.Unstructured{Object: map[string]any{}}
	object.SetGroupVersionKind(meshv1alpha1.GroupVersion.WithKind(kind))
	object.SetNamespace(namespace)
	object.SetName(name)
	var content map[string]any
	Expect(yaml.Unmarshal([]byte(spec), &content)).To(Succeed())
	object.Object["spec"] = content
	return object
}
