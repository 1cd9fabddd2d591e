//go:build e2e

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/tools/bundle/olm"
)

// olmNamespace is another than the one that the manifests name.
const olmNamespace = "weft-olm"

// TestBundle installs the bundle as the Operator Lifecycle Manager would, tells the demo's story, and removes Weft as
// the documentation says: the Mesh first, which loses no request.
func TestBundle(t *testing.T) {
	bed := connected(t)
	must(t)(kubectl(must(t)(manifests()), "delete", "--ignore-not-found", "-f", "-"))
	objects := installBundle(t, bed)
	if err := bed.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}

	t.Run("the webhook refuses what can never work", func(t *testing.T) {
		policy := &meshv1alpha1.MeshPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "faults"}}
		policy.Spec = testbed.MeshPolicy(t, "default", `
metadata: {name: faults}
spec: {fault: {headers: [{type: RegularExpression, name: x-user, value: "(ann|bob"}], abort: {status: 503}}}
`).Spec
		testbed.Eventually(t, func(ctx context.Context) error {
			err := bed.Client.Create(ctx, policy.DeepCopy(), client.DryRunAll)
			if apierrors.IsInvalid(err) && strings.Contains(err.Error(), "not an RE2 regular expression") {
				return nil
			}
			return errors.Join(errors.New("a policy that can never work was not refused for that"), err)
		})
	})
	t.Run("the story of the demo", func(t *testing.T) {
		t.Cleanup(func() {
			must(t)(kubectl(nil, "delete", "namespace", "weft-demo", "--ignore-not-found", "--wait=false"))
		})
		out := must(t)(command(nil, "go", "run", "./test/demo", "-requests", "8000"))
		for line := range strings.SplitSeq(string(out), "\n") {
			if strings.HasPrefix(line, "demo: ok") {
				t.Log(line)
			}
		}
		if got := strings.Count(string(out), "demo: ok"); got != 4 {
			t.Errorf("%d steps were as declared, want 4:\n%s", got, out)
		}
	})

	w := newTown(t, bed)
	loads := w.loads(t)
	must(t)(kubectl(nil, "delete", "mesh", "default"))
	for _, c := range w.clients {
		w.await(t, c, "")
	}
	must(t)(kubectl(nil, "wait", "--for=delete", "rolebinding", "-A", "-l", "mesh.weft.dev/component=proxy", "--timeout=180s"))
	unharmed(t, loads)

	for _, u := range objects {
		if err := bed.Client.Delete(t.Context(), u); client.IgnoreNotFound(err) != nil {
			t.Errorf("delete %T %s: %v", u, u.GetName(), err)
		}
	}
	w.nothingRemains(t, bed, false)
}

// installBundle applies what OLM makes of the bundle, and returns it, the namespace first.
func installBundle(t *testing.T, bed *testbed.Bed) []client.Object {
	t.Helper()
	b, err := olm.Read(os.DirFS(root + "/bundle"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := identity.GenerateCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.ParseCA(data)
	if err != nil {
		t.Fatal(err)
	}
	names := identity.ServiceNames(olm.WebhookService(b.CSV.Spec.Install.Spec.Deployments[0].Name), olmNamespace)
	pair, err := ca.IssueServing(names, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	made, err := olm.Install(b, olmNamespace, olm.Serving{Certificate: []byte(pair.Chain), Key: []byte(pair.Key), Root: []byte(ca.Bundle())})
	if err != nil {
		t.Fatal(err)
	}
	namespace := &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: olmNamespace, Labels: map[string]string{
			"app.kubernetes.io/part-of": "weft", "pod-security.kubernetes.io/enforce": "privileged",
		}},
	}
	objects := []client.Object{namespace}
	testbed.Eventually(t, func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(bed.Client.Create(ctx, namespace))
	})
	for _, u := range made {
		objects = append(objects, u)
		testbed.Eventually(t, func(ctx context.Context) error {
			return bed.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u.DeepCopy()), client.FieldOwner("olm"), client.ForceOwnership)
		})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
		defer cancel()
		for _, o := range objects {
			if err := bed.Client.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
				t.Errorf("delete %s: %v", o.GetName(), err)
			}
		}
		if err := testbed.Poll(ctx, func(ctx context.Context) error {
			err := bed.Client.Get(ctx, client.ObjectKey{Name: olmNamespace}, &corev1.Namespace{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(fmt.Errorf("namespace %s is still there", olmNamespace), err)
		}); err != nil {
			t.Error(err)
		}
	})
	return objects
}
