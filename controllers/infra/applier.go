package infra

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// hashAnnotation holds a hash of what was applied. A field that is no longer wanted cannot be seen by
// looking for wanted ones; a changed hash tells of it.
const hashAnnotation = meshv1alpha1.GroupName + "/applied"

// fieldOwner is the one name under which Weft owns fields of any object.
const fieldOwner = client.FieldOwner("weft")

// ours selects objects that Applier may delete.
var ours = client.MatchingLabels{meshv1alpha1.ComponentLabel: component}

// Kinds returns an empty object of each kind in Objects, in the same order: what to watch in order to
// repair drift.
func Kinds() []client.Object {
	return []client.Object{
		&rbacv1.RoleBinding{}, &corev1.ServiceAccount{}, &corev1.ConfigMap{},
		&policyv1.PodDisruptionBudget{}, &networkingv1.NetworkPolicy{}, &appsv1.Deployment{},
	}
}

// CacheOptions returns how the informer cache is to hold the kinds that Applier reads: our objects
// alone, selected by name. The operator's rights are limited to these names, which RBAC accepts for a
// list or watch only with exactly this selector; so nothing else of these kinds may be read from the
// cache. NetworkPolicies are not among them: the operator looks at those of users as well.
func CacheOptions() map[client.Object]cache.ByObject {
	byName := func(name string) cache.ByObject {
		return cache.ByObject{Field: fields.OneTermEqualSelector(metav1.ObjectNameField, name)}
	}
	return map[client.Object]cache.ByObject{
		&rbacv1.RoleBinding{}:           byName(IdentityRole),
		&corev1.ServiceAccount{}:        byName(meshv1alpha1.ProxyName),
		&corev1.ConfigMap{}:             byName(TrustBundleName),
		&policyv1.PodDisruptionBudget{}: byName(meshv1alpha1.ProxyName),
		&appsv1.Deployment{}:            byName(meshv1alpha1.ProxyName),
	}
}

// Applier brings the objects of a namespace into the wanted shape by server-side apply. It holds no
// state; calls for different namespaces may run at the same time.
type Applier struct {
	// Client reads from a cache with CacheOptions and writes to the API server.
	Client client.Client
}

// Apply applies the objects of one namespace, in order, where they differ from what is there, and
// deletes objects of ours that are not among them or among kept, which stay as they are. An object that is as
// wanted costs no request. The error joins one for every object that failed.
func (a *Applier) Apply(ctx context.Context, namespace string, objects []runtime.ApplyConfiguration, kept ...runtime.ApplyConfiguration) error {
	var errs []error
	wanted := map[string]bool{}
	for _, object := range kept {
		u, err := wantedObject(object)
		if err != nil {
			return err
		}
		wanted[u.GetKind()+"/"+u.GetName()] = true
	}
	for _, object := range objects {
		u, err := wantedObject(object)
		if err != nil {
			return err
		}
		wanted[u.GetKind()+"/"+u.GetName()] = true
		if err := a.apply(ctx, u); err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			errs = append(errs, fmt.Errorf("%s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err))
		}
	}
	return errors.Join(append(errs, a.prune(ctx, namespace, wanted))...)
}

// Remove deletes what Apply has made in a namespace, the proxies first and the operator's rights in the
// namespace last. The caller must have seen the namespace drain and its certificates removed.
func (a *Applier) Remove(ctx context.Context, namespace string) error {
	return a.prune(ctx, namespace, nil)
}

// Present returns the namespaces that hold anything of ours, sorted: the enrolled ones and those that
// an operator has not removed yet.
func (a *Applier) Present(ctx context.Context) ([]string, error) {
	var namespaces []string
	for _, kind := range Kinds() {
		items, err := a.list(ctx, kind)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			namespaces = append(namespaces, item.GetNamespace())
		}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), nil
}

func (a *Applier) apply(ctx context.Context, u *unstructured.Unstructured) error {
	same, err := a.inPlace(ctx, u)
	if err != nil || same {
		return err
	}
	return a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), fieldOwner, client.ForceOwnership)
}

// inPlace tells whether the object there has every wanted field and was applied from this very form.
func (a *Applier) inPlace(ctx context.Context, u *unstructured.Unstructured) (bool, error) {
	there, err := a.Client.Scheme().New(u.GroupVersionKind())
	if err != nil {
		return false, err
	}
	object, ok := there.(client.Object)
	if !ok {
		return false, fmt.Errorf("%T is no API object", there)
	}
	err = a.Client.Get(ctx, client.ObjectKeyFromObject(u), object)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return false, err
	}
	wanted := maps.Clone(u.Object)
	delete(wanted, "apiVersion") // a typed object has its kind in its type
	delete(wanted, "kind")
	return covers(content, wanted), nil
}

// prune deletes objects of ours that are not wanted, the last of Kinds first.
func (a *Applier) prune(ctx context.Context, namespace string, wanted map[string]bool) error {
	for _, kind := range slices.Backward(Kinds()) {
		gvk, err := a.Client.GroupVersionKindFor(kind)
		if err != nil {
			return err
		}
		items, err := a.list(ctx, kind, client.InNamespace(namespace))
		if err != nil {
			return err
		}
		for _, item := range items {
			if wanted[gvk.Kind+"/"+item.GetName()] || item.GetDeletionTimestamp() != nil {
				continue
			}
			uid := item.GetUID()
			err := a.Client.Delete(ctx, item,
				client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
			if client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("delete %s %s/%s: %w", gvk.Kind, namespace, item.GetName(), err)
			}
		}
	}
	return nil
}

// list returns our objects of a kind.
func (a *Applier) list(ctx context.Context, kind client.Object, opts ...client.ListOption) ([]client.Object, error) {
	gvk, err := a.Client.GroupVersionKindFor(kind)
	if err != nil {
		return nil, err
	}
	made, err := a.Client.Scheme().New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	if err != nil {
		return nil, err
	}
	list, ok := made.(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%T is no list", made)
	}
	if err := a.Client.List(ctx, list, append(opts, ours)...); err != nil {
		return nil, fmt.Errorf("list %s: %w", gvk.Kind, err)
	}
	var items []client.Object
	err = meta.EachListItem(list, func(item runtime.Object) error {
		object, ok := item.(client.Object)
		if !ok {
			return fmt.Errorf("%T is no API object", item)
		}
		items = append(items, object)
		return nil
	})
	return items, err
}

// wantedObject returns the object to apply, with the hash of its content.
func wantedObject(object runtime.ApplyConfiguration) (*unstructured.Unstructured, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", object, err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(data, &u.Object); err != nil {
		return nil, fmt.Errorf("decode %T: %w", object, err)
	}
	sum := sha256.Sum256(data)
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[hashAnnotation] = hex.EncodeToString(sum[:8])
	u.SetAnnotations(annotations)
	return u, nil
}

// covers tells whether there has everything that is wanted, at any depth. Fields that only there has
// are defaults or somebody else's. Lists must be equally long: a subject that somebody adds to a
// RoleBinding is drift. Where the API merges lists of several owners, an apply that changes nothing is
// the price.
func covers(there, wanted any) bool {
	switch wanted := wanted.(type) {
	case map[string]any:
		there, ok := there.(map[string]any)
		if !ok {
			return false
		}
		for key, value := range wanted {
			if !covers(there[key], value) {
				return false
			}
		}
		return true
	case []any:
		there, ok := there.([]any)
		if !ok || len(there) != len(wanted) {
			return false
		}
		for i := range wanted {
			if !covers(there[i], wanted[i]) {
				return false
			}
		}
		return true
	default:
		return there == wanted
	}
}
