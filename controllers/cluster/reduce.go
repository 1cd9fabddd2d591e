package cluster

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// CacheOptions keep the operator's memory in proportion to what it uses: every object loses the
// fields nobody reads before it enters the cache, and lists hand out the cached objects themselves.
func CacheOptions() cache.Options {
	shared := true
	return cache.Options{
		DefaultTransform:             ReduceMeta,
		DefaultUnsafeDisableDeepCopy: &shared,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Transform: ReducePod},
			&corev1.Node{}: {Transform: ReduceNode},
		},
	}
}

// ReduceMeta drops managed fields and the last-applied annotation, which hold most of an object's
// bytes and none of its meaning.
func ReduceMeta(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
		if annotations := o.GetAnnotations(); annotations != nil {
			delete(annotations, corev1.LastAppliedConfigAnnotation)
		}
	}
	return obj, nil
}

// ReducePod keeps of a pod what identity and placement need: names, labels, owner, node,
// ServiceAccount, addresses, phase and readiness; and the names of ports, which Services may refer to. Of Weft's own
// it also keeps what they wait for.
func ReducePod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	reduced := &corev1.Pod{
		ObjectMeta: reducedMeta(&pod.ObjectMeta),
		Spec: corev1.PodSpec{
			NodeName:           pod.Spec.NodeName,
			ServiceAccountName: pod.Spec.ServiceAccountName,
			HostNetwork:        pod.Spec.HostNetwork,
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs},
	}
	reduced.Spec.Containers = withNamedPorts(pod.Spec.Containers)
	reduced.Spec.InitContainers = withNamedPorts(pod.Spec.InitContainers)
	own := pod.Labels[meshv1alpha1.ComponentLabel] != ""
	for _, c := range pod.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady:
			reduced.Status.Conditions = append(reduced.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
		case own && c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			reduced.Status.Conditions = append(reduced.Status.Conditions,
				corev1.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
		}
	}
	if own {
		reduced.Status.ContainerStatuses = waiting(pod.Status.ContainerStatuses)
	}
	return reduced, nil
}

// waiting keeps of containers those that wait for something, and what for.
func waiting(containers []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range containers {
		if w := containers[i].State.Waiting; w != nil {
			out = append(out, corev1.ContainerStatus{Name: containers[i].Name, State: corev1.ContainerState{Waiting: w}})
		}
	}
	return out
}

// withNamedPorts keeps of containers those with named ports, and nothing of them but these and whether they are
// sidecars.
func withNamedPorts(containers []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for i := range containers {
		var ports []corev1.ContainerPort
		for _, p := range containers[i].Ports {
			if p.Name != "" {
				ports = append(ports, corev1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
			}
		}
		if len(ports) > 0 {
			out = append(out, corev1.Container{Name: containers[i].Name, RestartPolicy: containers[i].RestartPolicy, Ports: ports})
		}
	}
	return out
}

// ReduceNode keeps of a node its labels (the zone is one) and whether it takes pods.
func ReduceNode(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{
		ObjectMeta: reducedMeta(&node.ObjectMeta),
		Spec:       corev1.NodeSpec{Unschedulable: node.Spec.Unschedulable},
	}, nil
}

func reducedMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:              m.Name,
		Namespace:         m.Namespace,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		Labels:            m.Labels,
		OwnerReferences:   m.OwnerReferences,
		CreationTimestamp: m.CreationTimestamp,
		DeletionTimestamp: m.DeletionTimestamp,
	}
}
