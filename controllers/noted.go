package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// object names what a pass is to read again: one object, or the EndpointSlices of one Service.
type object struct {
	kind kind
	name types.NamespacedName
}

type kind string

const (
	kindService        kind = "Service"
	kindHTTPRoute      kind = "HTTPRoute"
	kindGRPCRoute      kind = "GRPCRoute"
	kindPolicy         kind = "MeshPolicy"
	kindAuthorization  kind = "MeshAuthorization"
	kindEndpointSlices kind = "EndpointSlices"
)

// noted are objects that events have told of. Any number of events about one object is one piece of work. Safe for
// concurrent use.
type noted struct {
	mu sync.Mutex
	in map[object]struct{}
}

func (n *noted) add(objects ...object) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.in == nil {
		n.in = map[object]struct{}{}
	}
	for _, o := range objects {
		n.in[o] = struct{}{}
	}
}

// take returns them and has none any more.
func (n *noted) take() []object {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := slices.Collect(maps.Keys(n.in))
	n.in = nil
	return all
}

// read reads objects as they are now.
func (w *World) read(ctx context.Context, objects []object) (compile.Changes, error) {
	ch := compile.Changes{
		Services: map[types.NamespacedName]*corev1.Service{}, HTTPRoutes: map[types.NamespacedName]*gwv1.HTTPRoute{},
		GRPCRoutes: map[types.NamespacedName]*gwv1.GRPCRoute{}, MeshPolicies: map[types.NamespacedName]*meshv1alpha1.MeshPolicy{},
		MeshAuthorizations: map[types.NamespacedName]*meshv1alpha1.MeshAuthorization{},
		EndpointSlices:     map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
	}
	for _, o := range objects {
		var err error
		switch o.kind {
		case kindService:
			ch.Services[o.name], err = get[corev1.Service](ctx, w.Client, o.name)
		case kindHTTPRoute:
			ch.HTTPRoutes[o.name], err = get[gwv1.HTTPRoute](ctx, w.Client, o.name)
		case kindGRPCRoute:
			ch.GRPCRoutes[o.name], err = get[gwv1.GRPCRoute](ctx, w.Client, o.name)
		case kindPolicy:
			var policy *meshv1alpha1.MeshPolicy
			policy, err = get[meshv1alpha1.MeshPolicy](ctx, w.Client, o.name)
			ch.MeshPolicies[o.name] = w.inForce.recall(policy)
		case kindAuthorization:
			ch.MeshAuthorizations[o.name], err = get[meshv1alpha1.MeshAuthorization](ctx, w.Client, o.name)
		case kindEndpointSlices:
			ch.EndpointSlices[o.name], err = slicesOf(ctx, w.Client, o.name)
		}
		if err != nil {
			return ch, err
		}
	}
	return ch, nil
}

// get returns an object, or nil if it does not exist.
func get[T any, P interface {
	*T
	client.Object
}](ctx context.Context, c client.Reader, name types.NamespacedName) (P, error) {
	o := P(new(T))
	if err := c.Get(ctx, name, o); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("get %T %s: %w", o, name, err)
	}
	return o, nil
}

// byService is the index of EndpointSlices by the name of their Service.
const byService = "service"

// indexSlices has the cache find EndpointSlices by their Service.
func indexSlices(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &discoveryv1.EndpointSlice{}, byService, func(o client.Object) []string {
		return []string{o.GetLabels()[discoveryv1.LabelServiceName]}
	})
	if err != nil {
		return fmt.Errorf("index of endpoint slices: %w", err)
	}
	return nil
}

// slicesOf returns the EndpointSlices of a Service.
func slicesOf(ctx context.Context, c client.Reader, name types.NamespacedName) ([]*discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	if err := c.List(ctx, &list, client.InNamespace(name.Namespace), client.MatchingFields{byService: name.Name}); err != nil {
		return nil, fmt.Errorf("list endpoint slices of %s: %w", name, err)
	}
	all := make([]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return all, nil
}
