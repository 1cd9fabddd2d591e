//go:build e2e

package lifecycle

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

const root = "../../.."

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if err := restore(); err != nil {
		fmt.Fprintln(os.Stderr, "lifecycle: install Weft again:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// restore installs Weft as it was before the tests, if they have used the cluster.
func restore() error {
	if !used {
		return nil
	}
	bed, err := connect()
	if err != nil {
		return err
	}
	installed, err := manifests()
	if err != nil {
		return err
	}
	if _, err := kubectl(installed, "apply", "--server-side", "--force-conflicts", "-f", "-"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return bed.WaitReady(ctx)
}

// used tells that a test has asked for the cluster.
var used bool

var connect = sync.OnceValues(func() (*testbed.Bed, error) {
	used = true
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return testbed.Connect(ctx, root)
})

// connected returns the cluster, with or without Weft on it.
func connected(t *testing.T) *testbed.Bed {
	t.Helper()
	bed, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	return bed
}

// manifests are those of the images that run, as "make deploy" applies them.
func manifests() ([]byte, error) {
	return command(nil, "go", "tool", "-modfile=tools/kustomize/go.mod", "kustomize", "build", "build/deploy")
}

// kubectl runs the local cluster's kubectl.
func kubectl(stdin []byte, args ...string) ([]byte, error) {
	return command(stdin, "build/cluster/kubectl", append([]string{"--kubeconfig", "build/cluster/kubeconfig"}, args...)...)
}

// must fails the test for an error.
func must(t *testing.T) func(out []byte, err error) []byte {
	return func(out []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// command runs a program in the checkout and returns what it wrote.
func command(stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdin = root, bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if strings.Contains(name, "/") {
		path, err := filepath.Abs(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		cmd.Path = path
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// town is two enrolled namespaces, with a routed Service in the first that clients of both send to.
type town struct {
	home, abroad string
	pods         []*testbed.Pod
	clients      []*testbed.Pod
}

func newTown(t *testing.T, bed *testbed.Bed) *town {
	t.Helper()
	w := &town{home: bed.Namespace(t, true), abroad: bed.Namespace(t, true)}
	backend := map[string]string{"role": "backend"}
	at := bed.Run(t, w.home,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: backend},
		testbed.App{Name: "v2", Version: "v2", Node: "node2", Labels: backend},
		testbed.App{Name: "client", Node: "node1"})
	away := bed.Run(t, w.abroad, testbed.App{Name: "client", Node: "node2"})
	w.pods, w.clients = slices.Concat(at, away), []*testbed.Pod{at[2], away[0]}
	bed.Create(t, testbed.NewService(w.home, "web", backend))
	bed.Proxies(t, w.home)
	bed.Proxies(t, w.abroad)
	route := testbed.HTTPRoute(t, w.home, `
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Mark, value: meshed}]}}]
    backendRefs: [{name: web, port: 80}]
`)
	bed.Program(t, route)
	for _, c := range w.clients {
		w.await(t, c, "meshed")
	}
	return w
}

func (w *town) request() traffic.Request { return traffic.Request{URL: "http://web." + w.home + "/"} }

// await waits until what a client sends arrives with a mark, which the route sets.
func (w *town) await(t *testing.T, c *testbed.Pod, mark string) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		a, err := c.Try(ctx, w.request())
		switch {
		case err != nil:
			return err
		case a.Error != "" || a.Echo == nil:
			return fmt.Errorf("%s: status %d", a.Error, a.Status)
		case a.Echo.Get(traffic.MarkHeader) != mark:
			return fmt.Errorf("mark %q, want %q", a.Echo.Get(traffic.MarkHeader), mark)
		}
		return nil
	})
}

// loads sends from every client, over connections that stay and over new ones.
func (w *town) loads(t *testing.T) []*testbed.Load {
	t.Helper()
	var loads []*testbed.Load
	for _, c := range w.clients {
		loads = append(loads,
			c.Load(t, traffic.Load{Requests: []traffic.Request{w.request()}, Workers: 2, Rate: 20}),
			c.Load(t, traffic.Load{Requests: []traffic.Request{w.request()}, Workers: 2, Rate: 20, NewConnections: true}))
	}
	return loads
}

// failures stops loads and returns how many requests they sent and which failed.
func failures(loads []*testbed.Load) (sent int, failed []traffic.Sample) {
	for _, l := range loads {
		p := l.Stop()
		sent += p.Sent
		for _, s := range p.Samples {
			if s.Failure != "" {
				failed = append(failed, s)
			}
		}
	}
	return sent, failed
}

// ours are the labels of everything that Weft installs or makes.
var ours = client.MatchingLabels{"app.kubernetes.io/part-of": "weft"}

// nothingRemains waits until neither the API nor a node holds anything of Weft's. Certificates of ServiceAccounts
// belong to those; certificates tells whether they may remain.
func (w *town) nothingRemains(t *testing.T, bed *testbed.Bed, certificates bool) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		var found []string
		for _, list := range []client.ObjectList{
			&corev1.NamespaceList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{}, &corev1.SecretList{}, &corev1.PodList{},
			&appsv1.DeploymentList{}, &appsv1.DaemonSetList{}, &policyv1.PodDisruptionBudgetList{}, &networkingv1.NetworkPolicyList{}, &rbacv1.RoleList{}, &rbacv1.ClusterRoleList{},
			&rbacv1.RoleBindingList{}, &rbacv1.ClusterRoleBindingList{}, &corev1.ConfigMapList{}, &discoveryv1.EndpointSliceList{},
			&coordinationv1.LeaseList{}, &admissionregistrationv1.ValidatingWebhookConfigurationList{},
			&admissionregistrationv1.MutatingWebhookConfigurationList{}, definitions(),
		} {
			if err := bed.Client.List(ctx, list, ours); err != nil {
				return err
			}
			_, secrets := list.(*corev1.SecretList)
			if err := meta.EachListItem(list, func(o runtime.Object) error {
				object, err := meta.Accessor(o)
				if err == nil && (!secrets || !certificates) {
					found = append(found, fmt.Sprintf("%T %s/%s", o, object.GetNamespace(), object.GetName()))
				}
				return err
			}); err != nil {
				return err
			}
		}
		for _, list := range []client.ObjectList{&corev1.NamespaceList{}, &corev1.ServiceList{}, &corev1.PodList{}, &corev1.SecretList{}, &gwv1.HTTPRouteList{}} {
			if err := bed.Client.List(ctx, list); err != nil {
				return err
			}
			if err := meta.EachListItem(list, func(o runtime.Object) error {
				object, err := meta.Accessor(o)
				if err == nil && strings.Contains(strings.Join(object.GetFinalizers(), " "), "weft") {
					found = append(found, fmt.Sprintf("a finalizer of %T %s/%s", o, object.GetNamespace(), object.GetName()))
				}
				return err
			}); err != nil {
				return err
			}
		}
		everywhere, namespaces, err := testbed.EveryTable()
		switch {
		case err != nil:
			return err
		case namespaces < len(w.pods)+2:
			return fmt.Errorf("only %d network namespaces of %d pods on two nodes have been looked into", namespaces, len(w.pods))
		}
		for _, table := range everywhere {
			found = append(found, "table "+table+" of a node or pod")
		}
		for _, p := range w.pods {
			tables, err := testbed.Tables(p.UID)
			if err != nil {
				return err
			}
			for _, table := range tables {
				found = append(found, "table "+table+" of pod "+p.Namespace+"/"+p.Name)
			}
		}
		if len(found) > 0 {
			return fmt.Errorf("what remains: %s", strings.Join(found, ", "))
		}
		return nil
	})
}

func definitions() *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: apiextensionsv1.GroupName, Version: "v1", Kind: "CustomResourceDefinitionList"})
	return list
}
