package webhooks

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/controllers/compile"
)

// stored is a reader of a snapshot that finds objects by name, by namespace and by the indexes of routes alone, as a
// cache does. It counts what it hands out.
type stored struct {
	named  map[string]client.Object
	listed map[string][]runtime.Object
	read   int
}

func newStored(s compile.Snapshot) *stored {
	r := &stored{named: map[string]client.Object{}, listed: map[string][]runtime.Object{}}
	if s.Mesh != nil {
		r.add(s.Mesh)
	}
	for _, o := range s.Namespaces {
		r.add(o)
	}
	for _, o := range s.Services {
		r.add(o)
	}
	for _, o := range s.HTTPRoutes {
		r.add(o)
	}
	for _, o := range s.GRPCRoutes {
		r.add(o)
	}
	for _, o := range s.MeshPolicies {
		r.add(o)
	}
	for _, o := range s.MeshAuthorizations {
		r.add(o)
	}
	return r
}

func (r *stored) add(o client.Object) {
	r.named[fmt.Sprintf("%T %s", o, client.ObjectKeyFromObject(o))] = o
	kind := fmt.Sprintf("%TList", o)
	if !strings.Contains(kind, "Route") {
		r.listed[kind+" in "+o.GetNamespace()] = append(r.listed[kind+" in "+o.GetNamespace()], o)
		return
	}
	for index, of := range routeIndexes {
		once := map[string]bool{}
		for _, value := range of(o) {
			if key := kind + " by " + index + "=" + value; !once[key] {
				once[key] = true
				r.listed[key] = append(r.listed[key], o)
			}
		}
	}
}

// Get implements client.Reader.
func (r *stored) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	o, exists := r.named[fmt.Sprintf("%T %s", into, name)]
	if !exists {
		return apierrors.NewNotFound(schema.GroupResource{}, name.String())
	}
	r.read++
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(o).Elem())
	return nil
}

// List implements client.Reader.
func (r *stored) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	key := fmt.Sprintf("%T", list)
	switch {
	case o.FieldSelector != nil && o.Namespace == "":
		by := o.FieldSelector.Requirements()[0]
		if routeIndexes[by.Field] == nil || !strings.Contains(key, "Route") {
			return fmt.Errorf("%T have no index %s", list, by.Field)
		}
		key += " by " + fields.OneTermEqualSelector(by.Field, by.Value).String()
	case o.FieldSelector == nil && o.Namespace != "" && !strings.Contains(key, "Route"):
		key += " in " + o.Namespace
	default:
		return fmt.Errorf("all of %T are asked for", list)
	}
	r.read += len(r.listed[key])
	return meta.SetList(list, r.listed[key])
}

var _ client.Reader = (*stored)(nil)
