package config_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/controllers/infra"
)

// startAPIServer starts an API server, with RBAC and Pod Security admission, installs config/default
// and returns how to reach it as an administrator.
func startAPIServer(t *testing.T) *rest.Config {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("KUBEBUILDER_ASSETS is not set: run this by make test")
	}
	environment := &envtest.Environment{}
	admin, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := newClient(t, admin)
	for _, u := range installed(t) {
		apply(t, c, u)
	}
	return admin
}

func newClient(t *testing.T, config *rest.Config) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// apply applies an object as kubectl does, and refuses fields that the API does not know.
func apply(t *testing.T, c client.Client, u *unstructured.Unstructured) {
	t.Helper()
	strict := client.WithFieldValidation(c, client.FieldValidation(metav1.FieldValidationStrict))
	err := strict.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u.DeepCopy()), client.FieldOwner("test"))
	if err != nil {
		t.Fatalf("apply %s %s: %v", u.GetKind(), u.GetName(), err)
	}
}

func makeNamespace(t *testing.T, c client.Client, name string, labels map[string]string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if err := c.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
}

// asOperator returns the configuration of a client with the rights of the operator's ServiceAccount.
func asOperator(admin *rest.Config) *rest.Config {
	config := rest.CopyConfig(admin)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:weft-system:weft-operator",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:weft-system", "system:authenticated"},
	}
	return config
}

// eventually repeats what needs rights that were granted a moment ago.
func eventually(t *testing.T, do func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestInstalled applies what a user applies to a real API server.
func TestInstalled(t *testing.T) {
	admin := startAPIServer(t)
	c := newClient(t, admin)

	t.Run("the samples are accepted", func(t *testing.T) {
		samples, err := render("samples")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { // the CRD was applied a moment ago
			var list unstructured.UnstructuredList
			list.SetAPIVersion("mesh.weft.dev/v1alpha1")
			list.SetKind("MeshList")
			return c.List(t.Context(), &list)
		})
		for _, u := range samples {
			apply(t, c, u)
		}
	})
	t.Run("operator and proxies are restricted pods", func(t *testing.T) {
		makeNamespace(t, c, "restricted", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
		for name, template := range map[string]corev1.PodTemplateSpec{
			"operator": find[appsv1.Deployment](t, "Deployment", "weft-operator").Spec.Template,
			"proxy":    proxyTemplate(t),
		} {
			pod := &corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: template.Spec}
			pod.Namespace, pod.Name = "restricted", name
			if err := c.Create(t.Context(), pod, client.DryRunAll); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("the operator can do its work", func(t *testing.T) { testWork(t, admin) })
	t.Run("the operator can do nothing else", func(t *testing.T) { testBounds(t, admin) })
}

func proxyTemplate(t *testing.T) corev1.PodTemplateSpec {
	t.Helper()
	for _, object := range infra.Objects("restricted", params("restricted")) {
		data, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var deployment appsv1.Deployment
		if err := json.Unmarshal(data, &deployment); err != nil {
			t.Fatal(err)
		}
		if deployment.Kind == "Deployment" {
			return deployment.Spec.Template
		}
	}
	t.Fatal("there is no Deployment of proxies")
	return corev1.PodTemplateSpec{}
}

func params(bundle string) infra.Params {
	return infra.Params{
		Image: "weft-proxy:v1", Replicas: 2, OperatorAddress: "weft-config.weft-system.svc:15010",
		Operator:    types.NamespacedName{Namespace: "weft-system", Name: "weft-operator"},
		TrustBundle: bundle,
	}
}

// testWork enrols a namespace, repairs drift in it and takes it out, with the operator's rights alone.
func testWork(t *testing.T, admin *rest.Config) {
	ctx := t.Context()
	makeNamespace(t, newClient(t, admin), "shop", nil)
	direct := newClient(t, asOperator(admin))
	cached := newCachedClient(t, asOperator(admin))

	keeper, err := identity.OpenKeeper(ctx, direct, "weft-system", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ca := keeper.CA()
	if again, err := identity.OpenKeeper(ctx, direct, "weft-system", time.Now); err != nil || again.CA().Bundle() != ca.Bundle() {
		t.Errorf("the second operator has another authority (error %v)", err)
	}

	applier := infra.Applier{Client: cached}
	objects := infra.Objects("shop", params(ca.Bundle()))
	if err := applier.Apply(ctx, "shop", objects); err != nil {
		t.Fatal(err)
	}
	issuer := &identity.Issuer{Client: direct, Now: time.Now, Wake: func() {}}
	t.Cleanup(issuer.Close)
	state := identity.State{CA: ca, TrustDomain: "cluster.local", Lifetime: time.Hour, Namespaces: []string{"shop"}}
	eventually(t, func() error {
		result, err := issuer.Reconcile(ctx, state)
		if err == nil && len(result.Certificates) != 1 {
			t.Errorf("%d certificates, want the proxies'", len(result.Certificates))
		}
		return err
	})

	versions := func() []string {
		t.Helper()
		var all []string
		for _, kind := range infra.Kinds() {
			name := types.NamespacedName{Namespace: "shop", Name: nameOf(kind)}
			eventually(t, func() error { return cached.Get(ctx, name, kind) })
			all = append(all, kind.GetResourceVersion())
		}
		return all
	}
	before := versions()
	if err := applier.Apply(ctx, "shop", objects); err != nil {
		t.Fatal(err)
	}
	if after := versions(); !slices.Equal(before, after) {
		t.Errorf("a second pass changed objects: versions %v became %v", before, after)
	}
	testDrift(t, admin, cached, &applier, objects)

	if err := issuer.Remove(ctx, "shop"); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if err := applier.Remove(ctx, "shop"); err != nil {
			return err
		}
		present, err := applier.Present(ctx)
		if slices.Contains(present, "shop") {
			return errors.New("something of ours is still there")
		}
		return err
	})
	var secrets corev1.SecretList
	if err := newClient(t, admin).List(ctx, &secrets, client.InNamespace("shop")); err != nil || len(secrets.Items) != 0 {
		t.Errorf("%d Secrets are left (error %v)", len(secrets.Items), err)
	}
}

// testDrift scales the proxies down as an administrator and sees it undone.
func testDrift(t *testing.T, admin *rest.Config, cached client.Client, applier *infra.Applier, objects []runtime.ApplyConfiguration) {
	t.Helper()
	name := types.NamespacedName{Namespace: "shop", Name: "weft-proxy"}
	scale := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`))
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
	if err := newClient(t, admin).Patch(t.Context(), deployment, scale); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := cached.Get(t.Context(), name, deployment); err != nil {
			return err
		}
		if *deployment.Spec.Replicas != 0 {
			return errors.New("the cache does not show the change")
		}
		return nil
	})
	if err := applier.Apply(t.Context(), "shop", objects); err != nil {
		t.Fatal(err)
	}
	if err := newClient(t, admin).Get(t.Context(), name, deployment); err != nil {
		t.Fatal(err)
	}
	if got := *deployment.Spec.Replicas; got != 2 {
		t.Errorf("replicas = %d after the repair, want 2", got)
	}
}

// newCachedClient returns a client that reads as the operator's does.
func newCachedClient(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	informers, err := cache.New(config, cache.Options{ByObject: infra.CacheOptions()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- informers.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(config, client.Options{Cache: &client.CacheOptions{Reader: informers}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func nameOf(kind client.Object) string {
	switch kind.(type) {
	case *rbacv1.RoleBinding:
		return infra.IdentityRole
	case *corev1.ConfigMap:
		return infra.TrustBundleName
	default:
		return "weft-proxy"
	}
}

// testBounds tries what a stolen token of the operator must not allow.
func testBounds(t *testing.T, admin *rest.Config) {
	makeNamespace(t, newClient(t, admin), "private", nil)
	operator := newClient(t, asOperator(admin))
	object := func(manifest string) *unstructured.Unstructured {
		t.Helper()
		u := &unstructured.Unstructured{}
		err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifest)), 4096).Decode(&u.Object)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		return u
	}
	applying := func(manifest string) func() error {
		return func() error {
			return operator.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(object(manifest)), client.FieldOwner("test"))
		}
	}
	cases := map[string]func() error{
		"list the Secrets of the cluster": func() error { return operator.List(t.Context(), &corev1.SecretList{}) },
		"read a Secret of a namespace that is not enrolled": func() error {
			return operator.Get(t.Context(), types.NamespacedName{Namespace: "private", Name: "password"}, &corev1.Secret{})
		},
		"list Secrets beside its own": func() error {
			return operator.List(t.Context(), &corev1.SecretList{}, client.InNamespace("weft-system"))
		},
		"change the certificate authority": applying(
			"{apiVersion: v1, kind: Secret, metadata: {namespace: weft-system, name: weft-ca}}"),
		"list ConfigMaps of the cluster": func() error { return operator.List(t.Context(), &corev1.ConfigMapList{}) },
		"deploy something of another name": applying(`
{apiVersion: apps/v1, kind: Deployment, metadata: {namespace: private, name: miner}, spec: {selector: {matchLabels: {a: b}},
 template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}}}`),
		"change a NetworkPolicy of somebody else": applying(`
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: private, name: default-deny}, spec: {podSelector: {}}}`),
		"bind another role": applying(`
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {namespace: private, name: weft-identity},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
 subjects: [{kind: ServiceAccount, namespace: weft-system, name: weft-operator}]}`),
		"bind its role under another name": applying(`
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {namespace: private, name: other},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-identity},
 subjects: [{kind: ServiceAccount, namespace: weft-system, name: weft-operator}]}`),
		"bind its role in the whole cluster": applying(`
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: weft-identity},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-identity},
 subjects: [{kind: ServiceAccount, namespace: weft-system, name: weft-operator}]}`),
		"label a namespace": applying(
			`{apiVersion: v1, kind: Namespace, metadata: {name: private, labels: {mesh.weft.dev/enabled: "true"}}}`),
		"edit the Mesh": applying(
			"{apiVersion: mesh.weft.dev/v1alpha1, kind: Mesh, metadata: {name: default}, spec: {proxy: {replicas: 9}}}"),
	}
	for name, try := range cases {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: error = %v, want a refusal", name, err)
		}
	}
}
