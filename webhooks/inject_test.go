package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var injected = InjectConfig{Image: "weft-proxy:v1", OperatorAddress: "weft-config.weft-system.svc:15010", TrustBundle: "weft-ca-bundle", TrustBundleKey: "ca.crt"}

// pods reads the pods of testdata/inject, which are YAML: the pod as it is made, and behind "---" what becomes of it.
func pods(t *testing.T) map[string]*corev1.Pod {
	t.Helper()
	files, err := filepath.Glob("testdata/inject/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	all := map[string]*corev1.Pod{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before, _, _ := strings.Cut(string(data), "---\n")
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict([]byte(before), pod); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[file] = pod
	}
	return all
}

// TestGoldenInjections shows what becomes of pods.
func TestGoldenInjections(t *testing.T) {
	for file, pod := range pods(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			given := pod.DeepCopy()
			after, err := Inject(pod, injected)
			if diff := cmp.Diff(given, pod); diff != "" {
				t.Errorf("the given pod was changed:\n%s", diff)
			}
			var result string
			switch {
			case err != nil:
				result = "refused: " + err.Error() + "\n"
			case cmp.Equal(after, pod):
				result = "unchanged: true\n"
			default:
				text, err := yaml.Marshal(after)
				if err != nil {
					t.Fatal(err)
				}
				result = string(text)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			before, want, _ := strings.Cut(string(data), "---\n")
			if *update {
				if err := os.WriteFile(file, []byte(before+"---\n"+result), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, result); diff != "" {
				t.Errorf("(-want +got), rewrite it with make golden:\n%s", diff)
			}
		})
	}
}

func TestInjectionIsRestrictedAndOnce(t *testing.T) {
	injections := 0
	for file, pod := range pods(t) {
		after, err := Inject(pod, injected)
		if err != nil || after == pod {
			continue
		}
		injections++
		again, err := Inject(after, InjectConfig{Image: "another"})
		if err != nil || !cmp.Equal(after, again) {
			t.Errorf("%s: the second time: %v\n%s", file, err, cmp.Diff(after, again))
		}
		if !compile.HasSidecar(after) {
			t.Errorf("%s: it does not show", file)
		}
		c := after.Spec.InitContainers[0]
		for what, ok := range map[string]bool{
			"it goes on beside the pod's own": *c.RestartPolicy == corev1.ContainerRestartPolicyAlways,
			"the pod's own wait for it":       c.StartupProbe != nil,
			"not root":                        *c.SecurityContext.RunAsNonRoot && *c.SecurityContext.RunAsUser != 0,
			"default seccomp profile":         c.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
			"no privilege escalation":         !*c.SecurityContext.AllowPrivilegeEscalation,
			"no capabilities":                 cmp.Equal(c.SecurityContext.Capabilities, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}),
			"read-only file system":           *c.SecurityContext.ReadOnlyRootFilesystem,
			"requests and limits":             len(c.Resources.Requests) == 2 && len(c.Resources.Limits) == 2,
		} {
			if !ok {
				t.Errorf("%s: violated: %s", file, what)
			}
		}
		for _, v := range after.Spec.Volumes[len(pod.Spec.Volumes):] {
			if v.EmptyDir != nil && v.EmptyDir.Medium != corev1.StorageMediumMemory || v.HostPath != nil {
				t.Errorf("%s: volume %s could write keys to a disk", file, v.Name)
			}
		}
	}
	if injections < 2 {
		t.Errorf("only %d pods were given proxies", injections)
	}
}

// shopLabelled is the namespace shop with labels.
func shopLabelled(labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: labels}}
}

// ask has the injector judge a pod of namespace shop, whose labels these are, and returns what the API server would
// store: the pod, or why not.
func ask(t *testing.T, pod string, namespace map[string]string, mesh *meshv1alpha1.Mesh) (stored map[string]any, warnings []string, why string) {
	t.Helper()
	return askKnowing(t, pod, nil, func(context.Context, string) (*corev1.Namespace, error) { return shopLabelled(namespace), nil }, mesh)
}

// askKnowing is ask with what is known of namespaces and what the API server says of one.
func askKnowing(
	t *testing.T, pod string, known []*corev1.Namespace, namespace func(context.Context, string) (*corev1.Namespace, error), mesh *meshv1alpha1.Mesh,
) (stored map[string]any, warnings []string, why string) {
	t.Helper()
	settings := func(context.Context, string) (compile.Snapshot, error) {
		return compile.Snapshot{Mesh: mesh, SystemNamespace: "weft-system", Namespaces: known}, nil
	}
	server := httptest.NewServer(NewInjector(settings, namespace, func(*meshv1alpha1.Mesh) InjectConfig { return injected }, logr.Discard()))
	defer server.Close()
	raw, err := yaml.YAMLToJSON([]byte(pod))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": map[string]any{
			"uid": "asked", "namespace": "shop", "operation": "CREATE", "object": json.RawMessage(raw),
			"kind": map[string]any{"group": "", "version": "v1", "kind": "Pod"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	status, response := post(t, server.URL+"?timeout=10s", body)
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	if !response.Allowed {
		return nil, response.Warnings, response.Result.Message
	}
	if len(response.Patch) > 0 {
		patch, err := jsonpatch.DecodePatch(response.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = patch.Apply(raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	return stored, response.Warnings, ""
}

func TestInjector(t *testing.T) {
	enrolled := map[string]string{meshv1alpha1.EnabledLabel: "true"}
	with := func(placement string) map[string]string {
		return map[string]string{meshv1alpha1.EnabledLabel: "true", meshv1alpha1.PlacementLabel: placement}
	}
	everywhere := &meshv1alpha1.Mesh{Spec: meshv1alpha1.MeshSpec{Proxy: meshv1alpha1.ProxySpec{Placement: meshv1alpha1.PlacementSidecar}}}
	for name, tc := range map[string]struct {
		labels    string
		namespace map[string]string
		mesh      *meshv1alpha1.Mesh
		want      string
	}{
		"nobody says anything":                 {namespace: enrolled, want: "shared"},
		"the namespace says sidecar":           {namespace: with("sidecar"), want: "beside"},
		"the pod says sidecar":                 {labels: "mesh.weft.dev/placement: sidecar", namespace: enrolled, want: "beside"},
		"the pod says otherwise":               {labels: "mesh.weft.dev/placement: namespace", namespace: with("sidecar"), want: "shared"},
		"the mesh says sidecar":                {namespace: enrolled, mesh: everywhere, want: "beside"},
		"the namespace says otherwise":         {namespace: with("namespace"), mesh: everywhere, want: "shared"},
		"not enrolled":                         {labels: "mesh.weft.dev/placement: sidecar", want: "shared"},
		"kept out":                             {labels: "mesh.weft.dev/enabled: 'false'", namespace: with("sidecar"), want: "shared"},
		"one of Weft's":                        {labels: "mesh.weft.dev/component: proxy", namespace: with("sidecar"), want: "shared"},
		"the pod says what nobody knows":       {labels: "mesh.weft.dev/placement: ambient", namespace: with("sidecar"), want: "refused"},
		"the namespace says what nobody knows": {namespace: with("ambient"), want: "shared, warned"},
		"the pod goes before a namespace that says what nobody knows": {labels: "mesh.weft.dev/placement: sidecar", namespace: with("ambient"), want: "beside, warned"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := "kind: Pod\nmetadata: {name: a, labels: {" + tc.labels + "}}\nspec: {futureField: kept, containers: [{name: app, futureField: kept}]}"
			stored, warnings, why := ask(t, pod, tc.namespace, tc.mesh)
			got := "shared"
			spec, _ := stored["spec"].(map[string]any)
			switch containers, _ := spec["initContainers"].([]any); {
			case strings.Contains(why, "ambient"):
				got = "refused"
			case why != "":
				t.Fatalf("refused: %s", why)
			case len(containers) == 1:
				got = "beside"
			}
			if len(warnings) > 0 {
				got += ", warned"
			}
			if got != tc.want {
				t.Errorf("the pod has it %s, want %s", got, tc.want)
			}
			if why == "" && (spec["futureField"] != "kept" || spec["containers"].([]any)[0].(map[string]any)["futureField"] != "kept") {
				t.Errorf("fields that are not known are lost: %v", spec)
			}
		})
	}
	if _, _, why := ask(t, "kind: Pod\nspec: {containers: [{name: weft-proxy}]}", with("sidecar"), nil); !strings.Contains(why, `container "weft-proxy" already`) {
		t.Errorf("a pod with a container of the proxy's name: %q", why)
	}
}

// A namespace that is made or labelled right before its pods counts as it is, and as it is known where the API server does
// not say.
func TestInjectorKnowsTheNamespaceAsItIs(t *testing.T) {
	enrolled := map[string]string{meshv1alpha1.EnabledLabel: "true"}
	beside := map[string]string{meshv1alpha1.EnabledLabel: "true", meshv1alpha1.PlacementLabel: "sidecar"}
	says := func(ns *corev1.Namespace, err error) func(context.Context, string) (*corev1.Namespace, error) {
		return func(_ context.Context, name string) (*corev1.Namespace, error) {
			if name != "shop" {
				t.Errorf("asked for namespace %q", name)
			}
			return ns, err
		}
	}
	silent := func(ctx context.Context, _ string) (*corev1.Namespace, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, tc := range map[string]struct {
		known       []*corev1.Namespace
		says        func(context.Context, string) (*corev1.Namespace, error)
		want        int
		wantWarning bool
	}{
		"new":                               {says: says(shopLabelled(beside), nil), want: 1},
		"enrolled meanwhile":                {known: []*corev1.Namespace{shopLabelled(nil)}, says: says(shopLabelled(beside), nil), want: 1},
		"labelled meanwhile":                {known: []*corev1.Namespace{shopLabelled(enrolled)}, says: says(shopLabelled(beside), nil), want: 1},
		"unlabelled meanwhile":              {known: []*corev1.Namespace{shopLabelled(beside)}, says: says(shopLabelled(enrolled), nil)},
		"known, and nobody says more":       {known: []*corev1.Namespace{shopLabelled(beside)}, says: says(nil, errors.New("away")), want: 1},
		"known, and nobody says so in time": {known: []*corev1.Namespace{shopLabelled(beside)}, says: silent, want: 1},
		"not known, and nobody says more":   {says: says(nil, errors.New("away")), wantWarning: true},
	} {
		t.Run(name, func(t *testing.T) {
			stored, warnings, why := askKnowing(t, "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: app}]}", tc.known, tc.says, nil)
			spec, _ := stored["spec"].(map[string]any)
			if containers, _ := spec["initContainers"].([]any); len(containers) != tc.want || why != "" || len(warnings) > 0 != tc.wantWarning {
				t.Errorf("%d proxies beside the pod, warnings %q, refused %q; want %d", len(containers), warnings, why, tc.want)
			}
		})
	}
}
