package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/findings"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCheckBeforeInstallation(t *testing.T) {
	var w world
	for _, o := range installed() {
		if n, ok := o.(*corev1.Node); ok {
			w.objects = append(w.objects, n)
		}
	}
	w.allowed = true
	got := w.run(t, "check", "--pre")
	want := `ok: Kubernetes v1.36.3
failed: missing grpcroutes.gateway.networking.k8s.io, httproutes.gateway.networking.k8s.io
    WEFT002 the Gateway API is not installed; Install the standard channel of the Gateway API, version 1.7 or later.
    https://weft.dev/docs/findings#weft002
ok: 1 node with NRI
ok: you may install Weft

4 checks: 1 failed, 0 warnings
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != exitNo || got.err != "" {
		t.Errorf("exit code %d, %q (-want +got):\n%s", got.code, got.err, diff)
	}
}

func TestCheckWithoutWeft(t *testing.T) {
	got := (&world{}).run(t, "check")
	if got.code != exitNo || !strings.Contains(got.out, "failed: missing meshauthorizations.mesh.weft.dev, meshes.mesh.weft.dev, meshpolicies.mesh.weft.dev\n") {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
}

func TestCheckOutput(t *testing.T) {
	got := (&world{objects: installed()}).run(t, "check", "-o", "json")
	var all []findings.Checked
	if err := json.Unmarshal([]byte(got.out), &all); err != nil {
		t.Fatalf("%v in %s%s", err, got.out, got.err)
	}
	for _, c := range all {
		// Nobody has made a webhook configuration.
		if want := c.Code == findings.NoAdmission; (c.State != findings.Passed) != want {
			t.Errorf("%s %s: %s", c.State, c.Code, c.Says)
		}
	}
	if got.code != exitOK {
		t.Errorf("exit code %d although nothing has failed", got.code)
	}
}

func TestColours(t *testing.T) {
	w := &world{objects: installed(), terminal: true}
	if got := w.run(t, "check"); !strings.HasPrefix(got.out, "\x1b[32mok\x1b[0m: ") {
		t.Errorf("on a terminal: %q", got.out[:20])
	}
	w.terminal = false
	if got := w.run(t, "check"); strings.Contains(got.out, "\x1b") {
		t.Errorf("elsewhere: %q", got.out)
	}
}

func TestStatus(t *testing.T) {
	w := &world{objects: append(installed(), webService(), webRoute("web", "web"), webRoute("lost", "nobody"))}
	for _, o := range w.objects {
		if d, ok := o.(*appsv1.Deployment); ok {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Image: d.Name + ":v1"}}
		}
		if m, ok := o.(*meshv1alpha1.Mesh); ok {
			for _, told := range []string{"RootRotating", "PlainCallers"} {
				m.Status.Conditions = append(m.Status.Conditions, metav1.Condition{Type: told, Status: metav1.ConditionFalse, Message: "nothing to tell"})
			}
		}
	}
	got := w.run(t, "status")
	want := `Weft on Kubernetes v1.36.3, trust domain cluster.local

COMPONENT     READY   IMAGE
operator      1/1     weft-operator:v1
node agents   1/1

NAMESPACE   PROXIES   SERVICES   ROUTES   POLICIES   IMAGE
shop        1/1       1          2        0          weft-proxy:v1

CONDITION             STATUS   MESSAGE
Ready                 True     it is so
Captured              True     it is so
GatewayAPIInstalled   True     it is so
ProxiesReady          True     it is so
DefaultsAccepted      True     it is so
CertificatesValid     True     it is so
RootRotating          False    nothing to tell
PlainCallers          False    nothing to tell

The intermediate ends 2027-06-18 12:00:00, in 200 days
The root ends 2036-11-30 12:00:00, in 3653 days
Analysis: 2 errors, 1 warning. See kubectl weft analyze
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != exitOK {
		t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
	}
	var o overview
	if err := yaml.Unmarshal([]byte(w.run(t, "status", "-o", "yaml").out), &o); err != nil || len(o.Namespaces) != 1 {
		t.Errorf("as YAML: %+v, %v", o, err)
	}
}

func TestAnalyzeCluster(t *testing.T) {
	w := &world{objects: append(installed(), webService(), webRoute("lost", "nobody"))}
	got := w.run(t, "analyze")
	want := "error WEFT102: HTTPRoute shop/lost: BackendNotFound: spec.rules[0].backendRefs[0].name: Service shop/nobody does not exist\n" +
		"    Create what it names, or correct the name or port.\n    https://weft.dev/docs/findings#weft102\n1 error\n"
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != exitNo {
		t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
	}
	if got := w.run(t, "analyze", "-n", "other"); got.code != exitOK || got.out != "nothing found\n" {
		t.Errorf("in another namespace: exit code %d, %s", got.code, got.out)
	}
	if got := w.run(t, "analyze", "-n", "other", "-A"); got.code != exitNo {
		t.Errorf("in all namespaces: exit code %d, %s", got.code, got.out)
	}
}

func TestAnalyzeFiles(t *testing.T) {
	w := &world{input: `
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{port: 5432}]}
`}
	got := w.run(t, "analyze", "-f", "-")
	if want := "Taken as enrolled, since no file declares it: shop\n1 info\n"; got.out != want || got.code != exitOK {
		t.Errorf("exit code %d, %q, want %q", got.code, got.out, want)
	}
	if got := w.run(t, "analyze", "-f", "-", "--fail-on", "info", "-o", "wide"); got.code != exitNo || !strings.HasPrefix(got.out, "stdin:2:1: info WEFT135: Service shop/db: ") {
		t.Errorf("with --fail-on info: exit code %d, %q", got.code, got.out)
	}
	for _, dir := range []string{"canary", "release", "environments", "authorization", "demo"} {
		if got := w.run(t, "analyze", "-f", "../../examples/"+dir, "--fail-on", "warning"); got.code != exitOK {
			t.Errorf("examples/%s: exit code %d, %s%s", dir, got.code, got.out, got.err)
		}
	}
}
