package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/findings"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/controllers/compile"
)

var today = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// ran is what a command line did.
type ran struct {
	code     int
	out, err string
}

// world is the cluster of a test.
type world struct {
	objects []client.Object
	// list answers every list, and get every get, instead of the cluster.
	list, get error
	// patch answers every patch.
	patch   error
	allowed bool
	client  client.Client
	input   string
	// terminal tells that there is one, noColor that NO_COLOR is set.
	terminal, noColor bool
	// noWeft is a cluster without Weft's kinds.
	noWeft bool
	// own makes commands read a kubeconfig.
	own bool
	way proxies.Way
	// logText is the log of every container; logs is an error instead.
	logText string
	logs    error
}

// run runs a command line in the world.
func (w *world) run(t *testing.T, args ...string) ran {
	t.Helper()
	return w.runIn(t.Context(), t, args...)
}

// runIn is run until ctx ends.
func (w *world) runIn(ctx context.Context, t *testing.T, args ...string) ran {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(w.input), out: &out, errOut: &errOut, now: func() time.Time { return today }, terminal: w.terminal, noColor: w.noColor}
	a.connect = func() (*connection, error) {
		if w.client == nil {
			w.client = w.newClient(t)
		}
		namespace := a.namespace
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		return &connection{reader: w.client, writer: w.client, namespace: namespace, version: func() (string, error) { return "v1.36.3", nil },
			way: func() (proxies.Way, error) { return w.way, nil },
			logs: func(_ context.Context, _ types.NamespacedName, _ string, previous bool) (io.ReadCloser, error) {
				if previous {
					return io.NopCloser(strings.NewReader("previous\n" + w.logText)), w.logs
				}
				return io.NopCloser(strings.NewReader(w.logText)), w.logs
			}}, nil
	}
	if w.own {
		a.connect = a.connectCluster
	}
	code := a.run(ctx, args)
	return ran{code, out.String(), errOut.String()}
}

func (w *world) newClient(t *testing.T) client.Client {
	scheme := mesh.Scheme()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(w.objects...).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if w.list != nil {
				return w.list
			}
			if _, ok := list.(*meshv1alpha1.MeshPolicyList); ok && w.noWeft {
				return &meta.NoKindMatchError{}
			}
			return c.List(ctx, list, opts...)
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if w.get != nil {
				return w.get
			}
			if _, ok := o.(*meshv1alpha1.Mesh); ok && w.noWeft {
				return &meta.NoKindMatchError{}
			}
			return c.Get(ctx, key, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if w.patch != nil {
				return w.patch
			}
			return c.Patch(ctx, o, patch, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if review, ok := o.(*authorizationv1.SelfSubjectAccessReview); ok {
				review.Status.Allowed = w.allowed
				return nil
			}
			return c.Create(ctx, o, opts...)
		},
	}).Build()
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// installed are the objects of a cluster in which Weft runs and namespace shop is enrolled.
func installed() []client.Object {
	var objects []client.Object
	for name, own := range findings.NeededCRDs {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: named("", name)}
		if !own {
			crd.Annotations = map[string]string{bundleVersion: "v1.7.0"}
		}
		objects = append(objects, crd)
	}
	m := &meshv1alpha1.Mesh{ObjectMeta: named("", "default"), Spec: meshv1alpha1.MeshSpec{TrustDomain: "cluster.local"}}
	m.Status.Captured = "1/1"
	for _, c := range []string{"Ready", "Captured", "GatewayAPIInstalled", "ProxiesReady", "DefaultsAccepted", "CertificatesValid"} {
		m.Status.Conditions = append(m.Status.Conditions, metav1.Condition{Type: c, Status: metav1.ConditionTrue, Message: "it is so"})
	}
	m.Status.CertificateAuthority.Rotation = "Steady"
	m.Status.CertificateAuthority.Roots = []meshv1alpha1.AuthorityCertificate{{Fingerprint: "ab", NotAfter: &metav1.Time{Time: today.AddDate(10, 0, 0)}}}
	m.Status.CertificateAuthority.Intermediates = []meshv1alpha1.AuthorityCertificate{{Fingerprint: "cd", NotAfter: &metav1.Time{Time: today.AddDate(0, 0, 200)}}}
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}}}
	operator := &appsv1.Deployment{ObjectMeta: named("weft-system", "weft-operator"), Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}
	agents := &appsv1.DaemonSet{ObjectMeta: named("weft-system", "weft-node"), Status: appsv1.DaemonSetStatus{NumberReady: 1, DesiredNumberScheduled: 1}}
	proxies := &appsv1.Deployment{ObjectMeta: named("shop", "weft-proxy"), Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}
	proxies.Labels = map[string]string{meshv1alpha1.ComponentLabel: compile.ComponentProxy}
	node := &corev1.Node{ObjectMeta: named("", "n1")}
	node.Status.NodeInfo = corev1.NodeSystemInfo{OperatingSystem: "linux", ContainerRuntimeVersion: "containerd://2.4.2"}
	return append(objects, m, shop, operator, agents, proxies, node)
}

func webService() *corev1.Service {
	return &corev1.Service{ObjectMeta: named("shop", "web"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
}

func webRoute(name, backend string) *gwv1.HTTPRoute {
	group, kind, port := gwv1.Group(""), gwv1.Kind("Service"), gwv1.PortNumber(80)
	r := &gwv1.HTTPRoute{ObjectMeta: named("shop", name)}
	r.Spec.ParentRefs = []gwv1.ParentReference{{Group: &group, Kind: &kind, Name: "web"}}
	ref := gwv1.HTTPBackendRef{}
	ref.Name, ref.Port = gwv1.ObjectName(backend), &port
	r.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{ref}}}
	return r
}

// Whatever goes wrong, people get one line that says what to do, and scripts an exit code.
func TestBadInput(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, "", nil)
	tests := map[string]struct {
		world world
		args  string
		code  int
		want  string
	}{
		"unknown command":      {args: "chek", code: 2, want: `error: unknown command "chek": there are `},
		"unknown flag":         {args: "check --foo", code: 2, want: "error: unknown flag: --foo; see kubectl weft check --help"},
		"unknown short flag":   {args: "-x", code: 2, want: "error: unknown shorthand flag: 'x' in -x; see kubectl weft --help"},
		"an argument":          {args: "check it", code: 2, want: `error: unknown command "it" for "kubectl weft check"; see kubectl weft check --help`},
		"a flag's value":       {args: "check --timeout soon", code: 2, want: `error: invalid argument "soon" for "--timeout" flag`},
		"an output":            {args: "check -o toml", code: 2, want: `error: --output "toml" is not one of wide, json, yaml; see kubectl weft check --help`},
		"a severity":           {args: "analyze --fail-on nothing", code: 2, want: `error: --fail-on "nothing" is not one of`},
		"no such file":         {args: "analyze -f nowhere.yaml", code: 2, want: "error: stat nowhere.yaml: no such file or directory"},
		"no YAML":              {world: world{input: "a: [\n"}, args: "analyze -f -", code: 2, want: "error: stdin:2:1: did not find expected node content"},
		"an unknown field":     {world: world{input: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: 1}\n"}, args: "analyze -f -", code: 2, want: `error: stdin:4:8: unknown field "spec.port"`},
		"no permission":        {world: world{list: forbidden}, args: "analyze", code: 4, want: "error: list *v1.NamespaceList: namespaces is forbidden: <nil>; ask for the ClusterRole weft-viewer"},
		"unknown to it":        {world: world{get: apierrors.NewUnauthorized("no")}, args: "status", code: 4, want: "error: the cluster does not know who you are; log in, or choose another --context"},
		"no Weft":              {world: world{get: &meta.NoKindMatchError{}}, args: "status", code: 5, want: "error: no Weft in this cluster; run kubectl weft check --pre, and install it"},
		"refused":              {world: world{get: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}, args: "status", code: 3, want: "error: the cluster cannot be reached: get mesh: dial tcp: connection refused; try kubectl get namespaces"},
		"too late":             {world: world{get: context.DeadlineExceeded}, args: "status", code: 3, want: "error: the cluster does not answer in time; raise --timeout"},
		"something unforeseen": {world: world{get: apierrors.NewInternalError(syscall.EIO)}, args: "status", code: 6, want: "error: get mesh: Internal error occurred"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := tc.world.run(t, strings.Fields(tc.args)...)
			if got.code != tc.code || !strings.HasPrefix(got.err, tc.want) {
				t.Errorf("exit code %d, %q; want %d, %q", got.code, got.err, tc.code, tc.want)
			}
			if strings.Count(got.err, "\n") != 1 || got.out != "" {
				t.Errorf("it is not one line: %q, output %q", got.err, got.out)
			}
		})
	}
}

func TestKubeconfig(t *testing.T) {
	for name, tc := range map[string]struct{ content, context, want string }{
		"none":          {"", "", "error: kubeconfig: stat "},
		"broken":        {"a: [", "", "error: kubeconfig: error loading config file"},
		"empty":         {"{}", "", "error: there is no kubeconfig; name one with --kubeconfig"},
		"other context": {"apiVersion: v1\nkind: Config\ncontexts: []\n", "prod", `error: kubeconfig: context "prod" does not exist; name another with --kubeconfig or --context`},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/config"
			if tc.content != "" {
				writeFile(t, path, tc.content)
			}
			var out, errOut bytes.Buffer
			a := &app{out: &out, errOut: &errOut, now: time.Now}
			a.connect = a.connectCluster
			code := a.run(t.Context(), []string{"status", "--kubeconfig", path, "--context", tc.context})
			if code != exitUnreachable || !strings.HasPrefix(errOut.String(), tc.want) || strings.Count(errOut.String(), "\n") != 1 {
				t.Errorf("exit code %d, %q; want %d, %q", code, &errOut, exitUnreachable, tc.want)
			}
		})
	}
}
