package distribute

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodLookup reads pods and what controls them, from a cache or from the API server.
type PodLookup interface {
	// Pod returns a pod, which the caller must not change.
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// Owner returns the object that an owner reference in a namespace names: a ReplicaSet, Deployment or
	// DaemonSet of apps/v1, or only its metadata. That its UID is the one of the reference is for the
	// caller to check.
	Owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (metav1.Object, error)
}

// Workload is a Deployment or DaemonSet whose pods are clients.
type Workload struct {
	// Kind is "Deployment" or "DaemonSet".
	Kind string
	// Namespace is where it is; empty means any.
	Namespace      string
	Name           string
	ServiceAccount string
	// Labels must all be on the pod.
	Labels map[string]string
}

// identify finds out what the pod of a reviewed token is.
func (a *TokenAuthenticator) identify(ctx context.Context, r review) (Identity, error) {
	pod, err := a.opts.Pods.Pod(ctx, r.namespace, r.pod)
	if err != nil {
		return Identity{}, lookupError(fmt.Sprintf("pod %s/%s", r.namespace, r.pod), err)
	}
	switch {
	case string(pod.UID) != r.podUID:
		return Identity{}, fmt.Errorf("%w: pod %s/%s is another one than the token's", ErrUnauthenticated, r.namespace, r.pod)
	case pod.Spec.ServiceAccountName != r.serviceAccount:
		return Identity{}, fmt.Errorf("%w: pod %s/%s runs as another ServiceAccount", ErrUnauthenticated, r.namespace, r.pod)
	case pod.Spec.NodeName == "" || r.node != "" && pod.Spec.NodeName != r.node:
		return Identity{}, fmt.Errorf("%w: pod %s/%s is not on the token's node", ErrUnauthenticated, r.namespace, r.pod)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return Identity{}, fmt.Errorf("%w: pod %s/%s has ended", ErrUnauthenticated, r.namespace, r.pod)
	}
	identity := Identity{
		Namespace: r.namespace, Pod: r.pod, PodUID: r.podUID, Node: pod.Spec.NodeName, Expires: r.expires,
	}
	switch {
	case a.opts.Node.Namespace != "" && a.opts.Node.looksLike(pod):
		identity.Kind = ClientNode
		err = a.owned(ctx, pod, a.opts.Node)
	case a.opts.Proxy.looksLike(pod) && a.opts.Enrolled(pod.Namespace):
		identity.Kind = ClientProxy
		err = a.owned(ctx, pod, a.opts.Proxy)
	case a.opts.Sidecar(pod) && pod.Spec.ServiceAccountName != a.opts.Proxy.ServiceAccount && a.opts.Enrolled(pod.Namespace):
		identity.Kind, identity.ServiceAccount = ClientSidecar, pod.Spec.ServiceAccountName
	default:
		err = fmt.Errorf("%w: pod %s/%s is neither a proxy of an enrolled namespace, nor has it one beside it, nor is it a node agent",
			ErrUnauthenticated, r.namespace, r.pod)
	}
	if err != nil {
		return Identity{}, err
	}
	return identity, nil
}

// looksLike compares what the pod itself says.
func (w Workload) looksLike(pod *corev1.Pod) bool {
	if w.Namespace != "" && pod.Namespace != w.Namespace || pod.Spec.ServiceAccountName != w.ServiceAccount {
		return false
	}
	for key, value := range w.Labels {
		if pod.Labels[key] != value {
			return false
		}
	}
	return true
}

// owned follows the owner references of a pod to its workload.
func (a *TokenAuthenticator) owned(ctx context.Context, pod *corev1.Pod, w Workload) error {
	chain := []string{w.Kind}
	if w.Kind == "Deployment" {
		chain = []string{"ReplicaSet", "Deployment"}
	}
	var object metav1.Object = pod
	for _, kind := range chain {
		ref := metav1.GetControllerOfNoCopy(object)
		if ref == nil || ref.Kind != kind || ref.APIVersion != "apps/v1" {
			return fmt.Errorf("%w: pod %s/%s belongs to no %s", ErrUnauthenticated, pod.Namespace, pod.Name, w.Kind)
		}
		what := fmt.Sprintf("%s %s/%s", kind, pod.Namespace, ref.Name)
		owner, err := a.opts.Pods.Owner(ctx, pod.Namespace, *ref)
		if err != nil {
			return lookupError(what, err)
		}
		if owner.GetUID() != ref.UID {
			return fmt.Errorf("%w: %s is another one than the owner of pod %s", ErrUnauthenticated, what, pod.Name)
		}
		object = owner
	}
	if object.GetName() != w.Name {
		return fmt.Errorf("%w: pod %s/%s belongs to %s %s, not %s",
			ErrUnauthenticated, pod.Namespace, pod.Name, w.Kind, object.GetName(), w.Name)
	}
	return nil
}

// lookupError tells what does not exist from what could not be read.
func lookupError(what string, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %s: %w", ErrUnauthenticated, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
