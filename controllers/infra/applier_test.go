package infra_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"weft.dev/weft/controllers/infra"
)

// recorder is an API server that remembers which objects were written, in order.
type recorder struct {
	client.WithWatch
	writes []string
	// fail answers an apply of the kind.
	fail map[string]error
}

func newRecorder(objects ...client.Object) *recorder {
	r := &recorder{fail: map[string]error{}}
	r.WithWatch = interceptor.NewClient(
		fake.NewClientBuilder().WithObjects(objects...).WithReturnManagedFields().
			// The client would give a NetworkPolicy a status, which it does not have by the API's own schema.
			WithTypeConverters(managedfields.NewDeducedTypeConverter()).Build(),
		interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				kind := obj.(interface{ GetKind() string }).GetKind()
				if err := r.fail[kind]; err != nil {
					return err
				}
				r.writes = append(r.writes, "apply "+kind)
				return c.Apply(ctx, obj, opts...)
			},
			Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
				gvk, err := c.GroupVersionKindFor(obj)
				if err != nil {
					return err
				}
				r.writes = append(r.writes, "delete "+gvk.Kind)
				return c.Delete(ctx, obj, opts...)
			},
		})
	return r
}

func (r *recorder) take() []string {
	writes := r.writes
	r.writes = nil
	return writes
}

func get[T client.Object](t *testing.T, r *recorder, name string, into T) T {
	t.Helper()
	if err := r.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, into); err != nil {
		t.Fatal(err)
	}
	return into
}

func apply(t *testing.T, r *recorder, p infra.Params) {
	t.Helper()
	applier := infra.Applier{Client: r}
	if err := applier.Apply(t.Context(), "shop", infra.Objects("shop", p)); err != nil {
		t.Fatal(err)
	}
}

var everything = []string{
	"apply RoleBinding", "apply ServiceAccount", "apply ConfigMap", "apply PodDisruptionBudget", "apply NetworkPolicy", "apply Deployment",
}

func TestApplyCreatesOnceAndOwnsEverything(t *testing.T) {
	r := newRecorder()
	apply(t, r, params())
	if diff := cmp.Diff(everything, r.take()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	for _, object := range []client.Object{
		get(t, r, "weft-identity", &rbacv1.RoleBinding{}), get(t, r, "weft-proxy", &corev1.ServiceAccount{}),
		get(t, r, "weft-ca-bundle", &corev1.ConfigMap{}), get(t, r, "weft-proxy", &policyv1.PodDisruptionBudget{}),
		get(t, r, "weft-proxy", &networkingv1.NetworkPolicy{}), get(t, r, "weft-proxy", &appsv1.Deployment{}),
	} {
		fields := object.GetManagedFields()
		if len(fields) != 1 || fields[0].Manager != "weft" || fields[0].Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("fields of %T are owned by %+v, want weft by apply alone", object, fields)
		}
	}
	apply(t, r, params())
	if writes := r.take(); len(writes) != 0 {
		t.Errorf("a second pass wrote %v", writes)
	}
}

func TestApplyWritesWhatChanged(t *testing.T) {
	cases := map[string]struct {
		change func(*infra.Params)
		want   []string
	}{
		"replicas":  {func(p *infra.Params) { p.Replicas = 3 }, []string{"apply Deployment"}},
		"image":     {func(p *infra.Params) { p.Image = "weft-proxy:v2" }, []string{"apply Deployment"}},
		"roots":     {func(p *infra.Params) { p.TrustBundle = "other" }, []string{"apply ConfigMap"}},
		"operator":  {func(p *infra.Params) { p.Operator.Name = "other" }, []string{"apply RoleBinding"}},
		"no policy": {func(p *infra.Params) { p.WithoutNetworkPolicy = true }, []string{"delete NetworkPolicy"}},
		"no limits": {func(p *infra.Params) { p.Resources = &corev1.ResourceRequirements{} }, []string{"apply Deployment"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRecorder()
			apply(t, r, params())
			r.take()
			p := params()
			tc.change(&p)
			apply(t, r, p)
			if diff := cmp.Diff(tc.want, r.take()); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestApplyRemovesFieldsNoLongerWanted(t *testing.T) {
	r := newRecorder()
	apply(t, r, params())
	p := params()
	p.Resources = &corev1.ResourceRequirements{}
	apply(t, r, p)
	c := get(t, r, "weft-proxy", &appsv1.Deployment{}).Spec.Template.Spec.Containers[0]
	if len(c.Resources.Limits) != 0 || len(c.Resources.Requests) != 0 {
		t.Errorf("resources = %+v, want none", c.Resources)
	}
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" }) {
		t.Error("the memory limit is still in the environment")
	}
}

func TestApplyRepairsDrift(t *testing.T) {
	deployment := func(change func(*appsv1.Deployment)) func(*testing.T, *recorder) {
		return func(t *testing.T, r *recorder) {
			d := get(t, r, "weft-proxy", &appsv1.Deployment{})
			change(d)
			if err := r.Update(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := map[string]struct {
		damage func(*testing.T, *recorder)
		want   []string
	}{
		"scaled": {
			deployment(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) }), []string{"apply Deployment"},
		},
		"made root": {
			deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.SecurityContext.RunAsUser = ptr.To[int64](0) }),
			[]string{"apply Deployment"},
		},
		"flag added": {
			deployment(func(d *appsv1.Deployment) {
				c := &d.Spec.Template.Spec.Containers[0]
				c.Args = append(c.Args, "--insecure")
			}), []string{"apply Deployment"},
		},
		"label removed": {
			deployment(func(d *appsv1.Deployment) { delete(d.Labels, "mesh.weft.dev/component") }), []string{"apply Deployment"},
		},
		"budget deleted": {
			func(t *testing.T, r *recorder) {
				if err := r.Delete(t.Context(), get(t, r, "weft-proxy", &policyv1.PodDisruptionBudget{})); err != nil {
					t.Fatal(err)
				}
				r.take()
			}, []string{"apply PodDisruptionBudget"},
		},
		"proxies opened to everybody": {
			func(t *testing.T, r *recorder) {
				policy := get(t, r, "weft-proxy", &networkingv1.NetworkPolicy{})
				policy.Spec.Ingress = append(policy.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
				if err := r.Update(t.Context(), policy); err != nil {
					t.Fatal(err)
				}
			}, []string{"apply NetworkPolicy"},
		},
		"roots exchanged": {
			func(t *testing.T, r *recorder) {
				cm := get(t, r, "weft-ca-bundle", &corev1.ConfigMap{})
				cm.Data["ca.crt"] = "mine"
				if err := r.Update(t.Context(), cm); err != nil {
					t.Fatal(err)
				}
			}, []string{"apply ConfigMap"},
		},
		"rights to Secrets given away": {
			func(t *testing.T, r *recorder) {
				b := get(t, r, "weft-identity", &rbacv1.RoleBinding{})
				b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "User", Name: "mallory"})
				if err := r.Update(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}, []string{"apply RoleBinding"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r, untouched := newRecorder(), newRecorder()
			apply(t, r, params())
			apply(t, untouched, params())
			r.take()
			tc.damage(t, r)
			apply(t, r, params())
			if diff := cmp.Diff(tc.want, r.take()); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
			ignore := cmp.FilterPath(func(p cmp.Path) bool {
				return slices.Contains([]string{"ManagedFields", "ResourceVersion", "Generation"}, p.Last().String()[1:])
			}, cmp.Ignore())
			for _, kind := range infra.Kinds() {
				name := map[string]string{"*v1.RoleBinding": "weft-identity", "*v1.ConfigMap": "weft-ca-bundle"}[fmt.Sprintf("%T", kind)]
				if name == "" {
					name = "weft-proxy"
				}
				want := get(t, untouched, name, kind.DeepCopyObject().(client.Object))
				if diff := cmp.Diff(want, get(t, r, name, kind), ignore); diff != "" {
					t.Errorf("%T after the repair (-want +got):\n%s", kind, diff)
				}
			}
		})
	}
}

func TestApplyLeavesOthersFieldsAlone(t *testing.T) {
	r := newRecorder()
	apply(t, r, params())
	d := get(t, r, "weft-proxy", &appsv1.Deployment{})
	d.Annotations["deployment.kubernetes.io/revision"] = "1"
	d.Labels["team"] = "platform"
	d.Spec.RevisionHistoryLimit = ptr.To[int32](10) // as the API server fills it in
	d.Spec.Template.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
	d.Status.ReadyReplicas = 2
	if err := r.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	apply(t, r, params())
	if writes := r.take()[len(everything):]; len(writes) != 0 {
		t.Errorf("fields of others caused %v", writes)
	}
	if got := get(t, r, "weft-proxy", &appsv1.Deployment{}); got.Labels["team"] != "platform" {
		t.Error("somebody's label is gone")
	}
}

func TestApplyPrunes(t *testing.T) {
	r := newRecorder()
	apply(t, r, params())
	r.take()
	objects := slices.DeleteFunc(infra.Objects("shop", params()), func(o runtime.ApplyConfiguration) bool {
		return strings.Contains(fmt.Sprintf("%T", o), "PodDisruptionBudget")
	})
	applier := infra.Applier{Client: r}
	if err := applier.Apply(t.Context(), "shop", objects); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"delete PodDisruptionBudget"}, r.take()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestApplyGoesOnAfterAFailure(t *testing.T) {
	r := newRecorder()
	r.fail["ConfigMap"] = errors.New("quota")
	applier := infra.Applier{Client: r}
	err := applier.Apply(t.Context(), "shop", infra.Objects("shop", params()))
	if err == nil || !strings.Contains(err.Error(), "ConfigMap shop/weft-ca-bundle: quota") {
		t.Errorf("error = %v, want the ConfigMap's", err)
	}
	want := slices.DeleteFunc(slices.Clone(everything), func(w string) bool { return w == "apply ConfigMap" })
	if diff := cmp.Diff(want, r.take()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestApplyInAnEndingNamespace(t *testing.T) {
	r := newRecorder()
	ending := apierrors.NewForbidden(corev1.Resource("configmaps"), "weft-ca-bundle", errors.New("the namespace is being terminated"))
	ending.ErrStatus.Details.Causes = append(ending.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	r.fail["ConfigMap"] = ending
	applier := infra.Applier{Client: r}
	if err := applier.Apply(t.Context(), "shop", infra.Objects("shop", params())); err != nil {
		t.Errorf("error = %v, want none: there is nothing to do about it", err)
	}
}

func TestRemove(t *testing.T) {
	mine := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "mine"}}
	r := newRecorder(mine)
	apply(t, r, params())
	applier := infra.Applier{Client: r}
	if err := applier.Apply(t.Context(), "bank", infra.Objects("bank", params())); err != nil {
		t.Fatal(err)
	}
	r.take()
	present := func() []string {
		t.Helper()
		namespaces, err := applier.Present(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return namespaces
	}
	if diff := cmp.Diff([]string{"bank", "shop"}, present()); diff != "" {
		t.Errorf("present (-want +got):\n%s", diff)
	}
	if err := applier.Remove(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"delete Deployment", "delete NetworkPolicy", "delete PodDisruptionBudget", "delete ConfigMap", "delete ServiceAccount",
		"delete RoleBinding",
	}
	if diff := cmp.Diff(want, r.take()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"bank"}, present()); diff != "" {
		t.Errorf("present (-want +got):\n%s", diff)
	}
	get(t, r, "mine", &corev1.ConfigMap{})
	if err := applier.Remove(t.Context(), "shop"); err != nil || len(r.take()) != 0 {
		t.Errorf("a second removal had something to do (error %v)", err)
	}
}

// TestEverythingIsCachedByName: the operator may read these kinds only by exactly these names, but for
// NetworkPolicies, of which it reads all.
func TestEverythingIsCachedByName(t *testing.T) {
	names := map[string]string{}
	for _, object := range infra.Objects("shop", params()) {
		u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			t.Fatal(err)
		}
		kind, name := (&unstructured.Unstructured{Object: u}).GetKind(), (&unstructured.Unstructured{Object: u}).GetName()
		names[kind] = name
	}
	c := newRecorder()
	got := map[string]string{}
	for object, options := range infra.CacheOptions() {
		gvk, err := c.GroupVersionKindFor(object)
		if err != nil {
			t.Fatal(err)
		}
		name, exact := options.Field.RequiresExactMatch("metadata.name")
		if !exact {
			t.Errorf("%s is not selected by name", gvk.Kind)
		}
		got[gvk.Kind] = name
	}
	delete(names, "NetworkPolicy")
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("names in the cache (-want +got):\n%s", diff)
	}
	if len(infra.Kinds()) != len(names)+1 {
		t.Errorf("%d kinds, want %d", len(infra.Kinds()), len(names)+1)
	}
}

func TestKeptObjectsStayAsTheyAre(t *testing.T) {
	r := newRecorder()
	apply(t, r, params())
	r.take()
	next := params()
	next.Image, next.TrustBundle = "weft-proxy:v2", "other"
	objects := infra.Objects("shop", next)
	last := len(objects) - 1
	applier := infra.Applier{Client: r}
	if err := applier.Apply(t.Context(), "shop", objects[:last], objects[last]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"apply ConfigMap"}, r.take()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if image := get(t, r, "weft-proxy", &appsv1.Deployment{}).Spec.Template.Spec.Containers[0].Image; image != params().Image {
		t.Errorf("the image is %s", image)
	}
}

// TestDeployed reads Deployments as they are while their pods are replaced.
func TestDeployed(t *testing.T) {
	status := func(observed int64, replicas, updated, available int32) appsv1.DeploymentStatus {
		return appsv1.DeploymentStatus{ObservedGeneration: observed, Replicas: replicas, UpdatedReplicas: updated, AvailableReplicas: available}
	}
	template := infra.Template(params())
	for name, tc := range map[string]struct {
		replaces string
		status   appsv1.DeploymentStatus
		want     infra.Deployed
	}{
		"just made":                     {status: status(0, 0, 0, 0), want: infra.Deployed{}},
		"the first becomes ready":       {status: status(2, 2, 2, 1), want: infra.Deployed{Available: 1}},
		"all serve":                     {status: status(2, 2, 2, 2), want: infra.Deployed{Available: 2, Complete: true}},
		"a change that nobody has seen": {"old", status(1, 2, 2, 2), infra.Deployed{Available: 2, Replaces: "old", Replacing: true}},
		"a new one beside the old ones": {"old", status(2, 3, 1, 2), infra.Deployed{Available: 2, Replaces: "old", Replacing: true}},
		"the last old one ends":         {"old", status(2, 3, 2, 3), infra.Deployed{Available: 3, Replaces: "old", Replacing: true}},
		"all are new":                   {"old", status(2, 2, 2, 2), infra.Deployed{Available: 2, Replaces: "old", Complete: true}},
		"a new one is away":             {"old", status(2, 2, 2, 1), infra.Deployed{Available: 1, Replaces: "old"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder()
			p := params()
			p.Replaces = tc.replaces
			apply(t, r, p)
			deployment := get(t, r, "weft-proxy", &appsv1.Deployment{})
			deployment.Generation = 2
			if err := r.Update(t.Context(), deployment); err != nil {
				t.Fatal(err)
			}
			deployment.Status = tc.status
			if err := r.Status().Update(t.Context(), deployment); err != nil {
				t.Fatal(err)
			}
			applier := infra.Applier{Client: r}
			all, err := applier.Deployed(t.Context())
			tc.want.Template, tc.want.Image = template, p.Image
			if diff := cmp.Diff(map[string]infra.Deployed{"shop": tc.want}, all); diff != "" || err != nil {
				t.Errorf("error %v (-want +got):\n%s", err, diff)
			}
			if one, ok, err := applier.DeployedIn(t.Context(), "shop"); one != tc.want || !ok || err != nil {
				t.Errorf("%+v %v %v", one, ok, err)
			}
			if _, ok, err := applier.DeployedIn(t.Context(), "till"); ok || err != nil {
				t.Errorf("there are proxies in another namespace: %v %v", ok, err)
			}
		})
	}
}

func TestTemplateIsThatOfThePodsAlone(t *testing.T) {
	scaled, other := params(), params()
	scaled.Replicas, scaled.TrustBundle, scaled.Replaces = 7, "other", "old"
	other.Image = "weft-proxy:v2"
	if infra.Template(params()) != infra.Template(scaled) || infra.Template(params()) == infra.Template(other) {
		t.Errorf("%s, scaled %s, another image %s", infra.Template(params()), infra.Template(scaled), infra.Template(other))
	}
}
