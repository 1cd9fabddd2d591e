package webhooks

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers/compile"
)

// The indexes of routes by the Services that they refer to, as namespace/name.
const (
	byParent  = "weft.parent"
	byBackend = "weft.backend"
)

var routeIndexes = map[string]client.IndexerFunc{
	byParent:  func(o client.Object) []string { return texts(referencesOf(o).parents) },
	byBackend: func(o client.Object) []string { return texts(referencesOf(o).backends) },
}

// indexRoutes has a cache find routes by Services.
func indexRoutes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, kind := range []client.Object{&gwv1.HTTPRoute{}, &gwv1.GRPCRoute{}} {
		for name, of := range routeIndexes {
			if err := indexer.IndexField(ctx, kind, name, of); err != nil {
				return fmt.Errorf("index %T: %w", kind, err)
			}
		}
	}
	return nil
}

func texts(names []types.NamespacedName) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = name.String()
	}
	return out
}

// references are the Services that a route means. One of which no parent is a Service is none of the mesh's, and
// means none. Whether backends are Services is not looked at: too many do no harm.
type references struct{ parents, backends []types.NamespacedName }

func referencesOf(route metav1.Object) references {
	var of references
	refer := func(list *[]types.NamespacedName, namespace *gwv1.Namespace, name gwv1.ObjectName) {
		in := route.GetNamespace()
		if namespace != nil {
			in = string(*namespace)
		}
		*list = append(*list, types.NamespacedName{Namespace: in, Name: string(name)})
	}
	parents := func(refs []gwv1.ParentReference) (attached bool) {
		for i := range refs {
			if compile.Attached(refs[i : i+1]) {
				refer(&of.parents, refs[i].Namespace, refs[i].Name)
			}
		}
		return len(of.parents) > 0
	}
	backend := func(ref *gwv1.BackendObjectReference) { refer(&of.backends, ref.Namespace, ref.Name) }
	mirror := func(m *gwv1.HTTPRequestMirrorFilter) {
		if m != nil {
			backend(&m.BackendRef)
		}
	}
	switch r := route.(type) {
	case *gwv1.HTTPRoute:
		if !parents(r.Spec.ParentRefs) {
			break
		}
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Filters {
				mirror(r.Spec.Rules[i].Filters[j].RequestMirror)
			}
			for j := range r.Spec.Rules[i].BackendRefs {
				ref := &r.Spec.Rules[i].BackendRefs[j]
				backend(&ref.BackendObjectReference)
				for k := range ref.Filters {
					mirror(ref.Filters[k].RequestMirror)
				}
			}
		}
	case *gwv1.GRPCRoute:
		if !parents(r.Spec.ParentRefs) {
			break
		}
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Filters {
				mirror(r.Spec.Rules[i].Filters[j].RequestMirror)
			}
			for j := range r.Spec.Rules[i].BackendRefs {
				ref := &r.Spec.Rules[i].BackendRefs[j]
				backend(&ref.BackendObjectReference)
				for k := range ref.Filters {
					mirror(ref.Filters[k].RequestMirror)
				}
			}
		}
	}
	return of
}
