package compile

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// SidecarContainer is the name of the container of a pod's own proxy.
const SidecarContainer = "weft-proxy"

// Placement returns where the proxy of a pod is to be, by the labels of the pod and of its namespace and the Mesh's
// default. mesh may be nil. A value that is not known is an error; what is next in order counts then, so that a
// misspelt label changes nothing.
func Placement(pod, namespace map[string]string, mesh *meshv1alpha1.Mesh) (meshv1alpha1.Placement, error) {
	placement := meshv1alpha1.PlacementNamespace
	if mesh != nil && mesh.Spec.Proxy.Placement != "" {
		placement = mesh.Spec.Proxy.Placement
	}
	var unknown error
	for _, level := range []struct {
		name   string
		labels map[string]string
	}{{"namespace", namespace}, {"pod", pod}} {
		value, labelled := level.labels[meshv1alpha1.PlacementLabel]
		switch said := meshv1alpha1.Placement(value); {
		case !labelled:
		case said == meshv1alpha1.PlacementNamespace, said == meshv1alpha1.PlacementSidecar:
			placement = said
		default:
			unknown = fmt.Errorf("label %s of the %s: %q is neither %q nor %q", meshv1alpha1.PlacementLabel, level.name, value,
				meshv1alpha1.PlacementSidecar, meshv1alpha1.PlacementNamespace)
		}
	}
	return placement, unknown
}

// Placeable tells that a pod can have a proxy of its own: it is of the mesh, none of Weft's own, and has a network of
// its own.
func Placeable(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Labels[meshv1alpha1.ComponentLabel] == "" && pod.Labels[meshv1alpha1.EnabledLabel] != "false"
}

// LacksSidecar tells that a pod is to have a proxy of its own and was not given one. placement is that of pods that do not
// say, or say what nobody knows.
func LacksSidecar(pod *corev1.Pod, placement meshv1alpha1.Placement) bool {
	if said := meshv1alpha1.Placement(pod.Labels[meshv1alpha1.PlacementLabel]); said == meshv1alpha1.PlacementNamespace || said == meshv1alpha1.PlacementSidecar {
		placement = said
	}
	return placement == meshv1alpha1.PlacementSidecar && Placeable(pod) && !HasSidecar(pod)
}

// HasSidecar tells that a pod was given a proxy of its own.
func HasSidecar(pod *corev1.Pod) bool {
	return pod.Labels[meshv1alpha1.SidecarLabel] == "true" && Placeable(pod) &&
		slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == SidecarContainer && valueOr(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
		})
}
