// Package cluster reads the API into values: the snapshot that compile works on, and the reduced
// objects that the informer cache keeps. It reads from the cache only and must neither write nor
// decide anything.
package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// Load lists everything that Compile needs except what the control plane itself owns (Numbers,
// TrustBundle, SystemNamespace), which the caller fills in. With a reader that returns cached objects
// without copying them the result shares them: it must not be changed.
func Load(ctx context.Context, r client.Reader) (compile.Snapshot, error) {
	s, err := Settings(ctx, r)
	if err != nil {
		return s, err
	}
	var services corev1.ServiceList
	var httpRoutes gwv1.HTTPRouteList
	var grpcRoutes gwv1.GRPCRouteList
	var policies meshv1alpha1.MeshPolicyList
	var authorizations meshv1alpha1.MeshAuthorizationList
	var slices discoveryv1.EndpointSliceList
	for _, list := range []client.ObjectList{&services, &httpRoutes, &grpcRoutes, &policies, &authorizations, &slices} {
		if err := r.List(ctx, list); err != nil {
			return s, fmt.Errorf("list %T: %w", list, err)
		}
	}
	s.Services = pointers(services.Items)
	s.HTTPRoutes = pointers(httpRoutes.Items)
	s.GRPCRoutes = pointers(grpcRoutes.Items)
	s.MeshPolicies = pointers(policies.Items)
	s.MeshAuthorizations = pointers(authorizations.Items)
	s.EndpointSlices = pointers(slices.Items)
	return s, nil
}

// Settings reads what of a snapshot concerns everybody: the Mesh and the namespaces.
func Settings(ctx context.Context, r client.Reader) (s compile.Snapshot, err error) {
	if s.Mesh, err = Mesh(ctx, r); err != nil {
		return s, err
	}
	var namespaces corev1.NamespaceList
	if err := r.List(ctx, &namespaces); err != nil {
		return s, fmt.Errorf("list %T: %w", &namespaces, err)
	}
	s.Namespaces = pointers(namespaces.Items)
	return s, nil
}

// Authorizations returns all MeshAuthorizations.
func Authorizations(ctx context.Context, r client.Reader) ([]*meshv1alpha1.MeshAuthorization, error) {
	var list meshv1alpha1.MeshAuthorizationList
	if err := r.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list %T: %w", &list, err)
	}
	return pointers(list.Items), nil
}

// Mesh returns the Mesh named default, or nil while there is none.
func Mesh(ctx context.Context, r client.Reader) (*meshv1alpha1.Mesh, error) {
	mesh := &meshv1alpha1.Mesh{}
	err := r.Get(ctx, types.NamespacedName{Name: meshv1alpha1.MeshName}, mesh)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get mesh: %w", err)
	}
	return mesh, nil
}

// Pods returns all pods, reduced as ReducePod leaves them.
func Pods(ctx context.Context, r client.Reader) ([]*corev1.Pod, error) {
	var pods corev1.PodList
	if err := r.List(ctx, &pods); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return pointers(pods.Items), nil
}

// Nodes returns all nodes, reduced as ReduceNode leaves them.
func Nodes(ctx context.Context, r client.Reader) ([]*corev1.Node, error) {
	var nodes corev1.NodeList
	if err := r.List(ctx, &nodes); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return pointers(nodes.Items), nil
}

// NetworkPolicies returns all network policies.
func NetworkPolicies(ctx context.Context, r client.Reader) ([]*networkingv1.NetworkPolicy, error) {
	var policies networkingv1.NetworkPolicyList
	if err := r.List(ctx, &policies); err != nil {
		return nil, fmt.Errorf("list network policies: %w", err)
	}
	return pointers(policies.Items), nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
