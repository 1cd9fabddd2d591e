package collect

import (
	"context"
	"fmt"
	"path"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// collected are the kinds of which all objects are added.
var collected = []struct {
	kind, apiVersion string
	list             func() client.ObjectList
	// wants tells which; nil is all.
	wants func(s Source, o client.Object) bool
}{
	{"Mesh", meshv1alpha1.GroupVersion.String(), func() client.ObjectList { return &meshv1alpha1.MeshList{} }, nil},
	{"MeshPolicy", meshv1alpha1.GroupVersion.String(), func() client.ObjectList { return &meshv1alpha1.MeshPolicyList{} }, nil},
	{"MeshAuthorization", meshv1alpha1.GroupVersion.String(), func() client.ObjectList { return &meshv1alpha1.MeshAuthorizationList{} }, nil},
	{"HTTPRoute", gwv1.GroupVersion.String(), func() client.ObjectList { return &gwv1.HTTPRouteList{} }, nil},
	{"GRPCRoute", gwv1.GroupVersion.String(), func() client.ObjectList { return &gwv1.GRPCRouteList{} }, nil},
	{"Namespace", "v1", func() client.ObjectList { return &corev1.NamespaceList{} }, nil},
	{"Service", "v1", func() client.ObjectList { return &corev1.ServiceList{} }, nil},
	{"EndpointSlice", "discovery.k8s.io/v1", func() client.ObjectList { return &discoveryv1.EndpointSliceList{} }, nil},
	{"NetworkPolicy", "networking.k8s.io/v1", func() client.ObjectList { return &networkingv1.NetworkPolicyList{} }, nil},
	{"Node", "v1", func() client.ObjectList { return &corev1.NodeList{} }, nil},
	{"Deployment", "apps/v1", func() client.ObjectList { return &appsv1.DeploymentList{} }, own},
	{"DaemonSet", "apps/v1", func() client.ObjectList { return &appsv1.DaemonSetList{} }, own},
	{"ValidatingWebhookConfiguration", "admissionregistration.k8s.io/v1", func() client.ObjectList { return &admissionv1.ValidatingWebhookConfigurationList{} },
		func(_ Source, o client.Object) bool { return o.GetName() == "weft-webhook" }},
}

// own tells that an object is a part of Weft.
func own(s Source, o client.Object) bool {
	return o.GetNamespace() == s.System || o.GetLabels()[meshv1alpha1.ComponentLabel] != ""
}

// objects adds what is declared, and the statuses.
func (a *archive) objects(ctx context.Context, s Source) {
	for _, c := range collected {
		list := c.list()
		if err := s.Reader.List(ctx, list); err != nil {
			a.miss("objects of kind "+c.kind, err)
			continue
		}
		err := meta.EachListItem(list, func(item runtime.Object) error {
			o, ok := item.(client.Object)
			if !ok || c.wants != nil && !c.wants(s, o) {
				return nil
			}
			return a.object(c.kind, c.apiVersion, o)
		})
		if err != nil {
			a.miss("objects of kind "+c.kind, err)
		}
	}
}

func (a *archive) object(kind, apiVersion string, o client.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, o.GetName(), err)
	}
	redactObject(content)
	content["kind"], content["apiVersion"] = kind, apiVersion
	data, err := yaml.Marshal(content)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, o.GetName(), err)
	}
	a.add(path.Join("objects", kind, o.GetNamespace(), o.GetName()+".yaml"), data)
	return nil
}

// pods adds all pods, those of others without what they run, and returns those of Weft and those that have proxies beside
// them.
func (a *archive) pods(ctx context.Context, s Source) []*corev1.Pod {
	var list corev1.PodList
	if err := s.Reader.List(ctx, &list); err != nil {
		a.miss("pods", err)
		return nil
	}
	var found []*corev1.Pod
	for i := range list.Items {
		pod := &list.Items[i]
		written := pod
		isOwn := own(s, pod)
		if !isOwn {
			written = outline(pod)
		}
		if isOwn || compile.HasSidecar(pod) {
			found = append(found, pod)
		}
		if err := a.object("Pod", "v1", written); err != nil {
			a.miss("pod "+pod.Name, err)
		}
	}
	return found
}

// outline is what a mesh knows of a pod.
func outline(pod *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, UID: pod.UID, CreationTimestamp: pod.CreationTimestamp, OwnerReferences: pod.OwnerReferences,
	}}
	out.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, ServiceAccountName: pod.Spec.ServiceAccountName, HostNetwork: pod.Spec.HostNetwork}
	for _, c := range pod.Spec.Containers {
		out.Spec.Containers = append(out.Spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
	}
	if compile.HasSidecar(pod) {
		for _, c := range pod.Spec.InitContainers {
			if c.Name == compile.SidecarContainer {
				out.Spec.InitContainers = []corev1.Container{{Name: c.Name, Image: c.Image, RestartPolicy: c.RestartPolicy, Ports: c.Ports}}
			}
		}
		out.Status.InitContainerStatuses = slices.DeleteFunc(slices.Clone(pod.Status.InitContainerStatuses), func(status corev1.ContainerStatus) bool {
			return status.Name != compile.SidecarContainer
		})
	}
	out.Status = corev1.PodStatus{Phase: pod.Status.Phase, Conditions: pod.Status.Conditions, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs, HostIP: pod.Status.HostIP}
	return out
}

// about are the kinds whose events are added, wherever they are.
var about = []string{"Mesh", "MeshPolicy", "MeshAuthorization", "HTTPRoute", "GRPCRoute"}

// events adds those of Weft's own namespace and those about what people declare, the oldest first.
func (a *archive) events(ctx context.Context, s Source) {
	var list corev1.EventList
	if err := s.Reader.List(ctx, &list); err != nil {
		a.miss("events.txt", err)
		return
	}
	when := func(e *corev1.Event) metav1.Time {
		for _, at := range []metav1.Time{e.LastTimestamp, metav1.Time(e.EventTime), e.FirstTimestamp} {
			if !at.IsZero() {
				return at
			}
		}
		return e.CreationTimestamp
	}
	list.Items = slices.DeleteFunc(list.Items, func(e corev1.Event) bool {
		at := when(&e)
		return e.Namespace != s.System && !slices.Contains(about, e.InvolvedObject.Kind) || at.Time.Before(s.Since)
	})
	slices.SortStableFunc(list.Items, func(x, y corev1.Event) int {
		at, other := when(&x), when(&y)
		return at.Compare(other.Time)
	})
	var out []byte
	for i := range list.Items {
		e := &list.Items[i]
		at := when(e)
		out = fmt.Appendf(out, "%s %s %s %s/%s %s: %s\n", at.UTC().Format("2006-01-02T15:04:05Z"), e.Type, e.InvolvedObject.Kind, e.InvolvedObject.Namespace,
			e.InvolvedObject.Name, e.Reason, scrubLog(e.Message))
	}
	a.add("events.txt", out)
}
