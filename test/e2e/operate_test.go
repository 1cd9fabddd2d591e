//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/archive"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// interrupted waits for a command that goes on until it is interrupted, which it is as soon as enough returns true for
// something that it has written as JSON.
func interrupted[T any](t *testing.T, cmd *exec.Cmd, enough func(T) bool) {
	t.Helper()
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	done := false
	var last T
	for shown := json.NewDecoder(out); ; {
		var value T
		if err := shown.Decode(&value); err != nil {
			break // it has ended
		}
		if last = value; !done && enough(value) {
			done = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !done || !ok || status.ExitStatus() != 130 {
		t.Errorf("%q ended with %v, want exit code 130, last with %+v: %s", cmd.Args[1:], err, last, &errOut)
	}
}

// TestSplitCommand changes a split under load and watches it come about.
func TestSplitCommand(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "shares")
	route := testbed.HTTPRoute(t, w.home, `
metadata: {name: shares}
spec:
  parentRefs: [{group: "", kind: Service, name: shares, port: 80}]
  rules:
  - name: everybody
    backendRefs: [{name: shares-v1, port: 80, weight: 1}, {name: shares-v2, port: 80, weight: 0}]
`)
	bed.Program(t, route)
	request := traffic.Request{URL: "http://shares." + w.home}
	captured(t, w.client, request)
	load := w.client.Load(t, traffic.Load{Requests: []traffic.Request{request}, Workers: 2, Rate: 100})

	viewer := bed.Person(t, w.home, "shares-viewer", "weft-viewer", "weft-debugger")
	says(t, viewer, 0, "split shares", "HTTPRoute/"+w.home+"/shares, rule everybody", w.home+"/shares-v1:80   1        100.0 %")
	says(t, viewer, 4, "split shares --set v2=20", "; ask for the right to patch it")
	if err := bed.Client.Get(t.Context(), client.ObjectKeyFromObject(route), route); err != nil || *route.Spec.Rules[0].BackendRefs[1].Weight != 0 {
		t.Errorf("somebody without the right has changed the route, or %v", err)
	}

	bed.Create(t, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: w.home + "-releaser"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{gwv1.GroupName}, Resources: []string{"httproutes"}, Verbs: []string{"patch"}}},
	})
	releaser := bed.Person(t, w.home, "shares-releaser", "weft-viewer", "weft-debugger", w.home+"-releaser")
	ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
	defer cancel()
	type shown struct {
		Shares []struct {
			Backend                       string
			Weight, Requests              int
			Declared, Observed, Low, High float64
		}
	}
	interrupted(t, releaser.Weft(ctx, "split", "shares", "--set", "v2=20", "--watch", "--window", "1s", "-o", "json"), func(s shown) bool {
		if len(s.Shares) != 2 {
			return false
		}
		v2 := s.Shares[1]
		// It is counted from when all proxies had it.
		return v2.Backend == w.home+"/shares-v2:80" && v2.Weight == 20 && v2.Declared == 20 && v2.Requests >= 20 && v2.Observed > 5 && v2.Observed < 50 && v2.Low < v2.High
	})
	if p := load.Stop(); p.Failed > 0 {
		t.Errorf("%d of %d requests failed", p.Failed, p.Sent)
	}
}

// TestEnvironments writes the routes of an environment with the command, applies them as its help says, and requests get
// where they belong.
func TestEnvironments(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	bed.Create(t, testbed.NewService(w.home, "basket", onlyV1))
	staging := testbed.NewService(w.home, "basket-staging", onlyV2)
	bed.Create(t, staging)
	seen(t, staging)
	viewer := bed.Person(t, w.home, "environments", "weft-viewer")
	apply := func(written string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bed.Path(t, "build", "cluster", "kubectl"), "--kubeconfig", bed.Path(t, "build", "cluster", "kubeconfig"), "apply", "-f", "-")
		cmd.Stdin = strings.NewReader(written)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kubectl apply: %v: %s of:\n%s", err, out, written)
		}
	}
	route := func(namespace, name string) {
		t.Helper()
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		bed.Adopt(t, r)
		bed.AwaitProgrammed(t, r)
	}
	url := "http://basket." + w.home
	says(t, viewer, 5, "environments write nightly -n "+w.home, "no Service has a twin for nightly")

	// The ports of an App are for HTTP, gRPC, and TCP, which has no route.
	written := says(t, viewer, 0, "environments write staging -n "+w.home).Out
	apply(written)
	for _, name := range []string{"basket-staging-80", "basket-staging-9000"} {
		route(w.home, name)
	}
	expect(t, w.abroadClient, traffic.Request{URL: url}, from("v1"))
	expect(t, w.abroadClient, traffic.Request{URL: url, Header: map[string]string{"x-environment": "staging"}}, from("v2"))
	expect(t, w.abroadClient, traffic.Request{URL: url, Header: map[string]string{"baggage": "a=b,environment=staging;x"}}, from("v2"))
	expect(t, w.abroadClient, traffic.Request{URL: url, Header: map[string]string{"x-environment": "production"}}, from("v1"))

	apply(says(t, viewer, 0, "environments write staging -n "+w.home+" --callers "+w.abroad).Out)
	route(w.abroad, "basket-staging-80")
	route(w.abroad, "basket-staging-9000")
	expect(t, w.abroadClient, traffic.Request{URL: url}, from("v2"))
	expect(t, w.client, traffic.Request{URL: url}, from("v1"))

	says(t, viewer, 0, "environments -n "+w.home, "staging", w.home+"/basket:80", w.home+"/basket-staging:80", "requests that say so", "clients of "+w.abroad)
	var shown []struct{ Environment, Service, Twin, Callers, Route string }
	got := says(t, viewer, 0, "environments -n "+w.home+" -o json")
	if err := json.Unmarshal([]byte(got.Out), &shown); err != nil || len(shown) != 4 {
		t.Errorf("%v: four routes lead to twins: %s", err, got)
	}
}

// TestDebugBundle: whoever may read everything makes an archive with everything in it but what is secret: no key and no
// token of this cluster, nor what routes and requests hold.
func TestDebugBundle(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	const planted = "pl4nted-S3cret"
	w.services(t, "bundled")
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: bundled, annotations: {example.com/password: `+planted+`}}
spec:
  parentRefs: [{group: "", kind: Service, name: bundled, port: 80}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Authorization, value: Bearer `+planted+`}]}}]
    backendRefs: [{name: bundled-v1, port: 80}]
`))
	bed.Enforce(t, testbed.MeshPolicy(t, w.home, `
metadata: {name: bundled}
spec:
  targetRefs: [{group: "", kind: Service, name: bundled}]
  telemetry: {accessLog: {rules: [{}]}}
`))
	request := traffic.Request{URL: "http://bundled." + w.home + "/a?token=" + planted, Header: map[string]string{"Cookie": "session=" + planted}}
	expect(t, w.client, request, from("v1"))

	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	admin := bed.Person(t, w.home, "bundler", "cluster-admin")
	says(t, admin, 0, "debug bundle --timeout 2m --file "+file, file+" holds ")
	files := archived(t, file)
	secrets := append(secretsOf(t), planted, admin.Token)
	for name, content := range files {
		for _, secret := range secrets {
			for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
				if strings.Contains(content, form) {
					t.Errorf("%s holds a secret that begins with %.6s", name, secret)
				}
			}
		}
	}
	serving, container := bed.ProxiesOf(t, w.client), "proxy"
	if serving[0].Beside {
		container = "weft-proxy"
	}
	proxy := serving[0].Name
	// One of them has served the request.
	if !slices.ContainsFunc(serving, func(p *testbed.Pod) bool {
		return strings.Contains(files["proxies/"+w.home+"/"+p.Name+"/metrics.txt"], "http_server_request_duration_seconds")
	}) {
		t.Error("no proxy's metrics have a request")
	}
	for name, text := range map[string]string{
		"check.txt": "checks: ", "status.txt": "Weft on Kubernetes", "analyze.txt": "", "proxy-status.txt": w.home,
		"proxies/" + w.home + "/" + proxy + "/config.json":        w.home + "/bundled-v1",
		"proxies/" + w.home + "/" + proxy + "/metrics.txt":        "",
		"logs/" + w.home + "/" + proxy + "/" + container + ".log": "",
	} {
		if content, ok := files[name]; !ok || !strings.Contains(content, text) {
			t.Errorf("%q is missing in %s; what could not be read: %s", text, name, files["missing.txt"])
		}
	}
	operators := 0
	for name := range files {
		if strings.HasPrefix(name, "logs/"+testbed.SystemNamespace+"/weft-operator-") {
			operators++
		}
	}
	if operators == 0 {
		t.Errorf("no log of an operator in %d files", len(files))
	}
}

// secretsOf returns what is in the Secrets of the cluster and may be in no archive: of private keys each line, of
// anything else that is no certificate all of it.
func secretsOf(t *testing.T) []string {
	t.Helper()
	var list corev1.SecretList
	if err := bed.Client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var all []string
	keys := 0
	for i := range list.Items {
		for _, data := range list.Items[i].Data {
			text := strings.TrimSpace(string(data))
			if strings.Contains(text, "PRIVATE KEY-----") {
				keys++
				for line := range strings.Lines(text) {
					if line = strings.TrimSpace(line); len(line) >= 16 && !strings.HasPrefix(line, "-----") {
						all = append(all, line)
					}
				}
			} else if len(text) >= 16 && !strings.Contains(text, "BEGIN CERTIFICATE") {
				all = append(all, text)
			}
		}
	}
	if keys < 4 {
		t.Errorf("the cluster has only %d private keys: are these all Secrets?", keys)
	}
	return slices.Compact(all)
}

// archived are the files of a tar.gz, without the directory that they are in.
func archived(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return archive.UnpackDirectory(t, data)
}

// TestWhoMayLook: Kubernetes decides who may look into the proxies of which namespace. Somebody with the role in one
// namespace sees its requests, and of others gets told which role is missing.
func TestWhoMayLook(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	w.services(t, "looked-at")
	bed.Create(t, testbed.NewService(w.abroad, "looked-at-abroad", allVersions))
	neighbour := bed.Person(t, w.abroad, "neighbour", "weft-viewer")
	bed.Create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.abroad, Name: "neighbour"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "weft-debugger"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.abroad, Name: "neighbour"}},
	})
	requests := []traffic.Request{{URL: "http://looked-at." + w.home}, {URL: "http://looked-at-abroad." + w.abroad, Header: map[string]string{"x-request-id": "looked-at"}}}
	for _, r := range requests {
		captured(t, w.abroadClient, r)
	}
	load := w.abroadClient.Load(t, traffic.Load{Requests: requests, Workers: 1, Rate: 20})
	says(t, neighbour, 0, fmt.Sprintf("tap %s/looked-at-abroad:80 --limit 2", w.abroad), "200 GET looked-at-abroad."+w.abroad)
	says(t, neighbour, 0, "why looked-at -n "+w.abroad, "at the proxy of the caller")
	for _, command := range []string{"tap " + w.home + "/looked-at:80 --limit 1", "why looked-at", "stat -n " + w.home, "proxy config " + w.home, "proxy diff " + w.home, "certs -n " + w.home} {
		got := says(t, neighbour, 4, command, "error: ", "; ask for the ClusterRole weft-debugger in the namespace")
		if got.Out != "" || strings.Count(got.Errors, "\n") != 1 {
			t.Errorf("kubectl weft %s: want one line and nothing else: %s", command, got)
		}
	}
	// What could be shown of her own namespace may have been.
	says(t, neighbour, 4, "tap -A looked-at-abroad:80", "error: ", "; ask for the ClusterRole weft-debugger in the namespace")
	load.Stop()
}
