package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/archive"
)

// planted is in every secret of the test, and may be in no archive.
const planted = "pl4nted"

// secretive is a mesh that is full of secrets.
func secretive(t *testing.T) *world {
	t.Helper()
	w := &world{objects: installed(), logText: "start\nauthorization: Bearer " + planted + "-bearer\n" +
		`{"msg":"call","password":"` + planted + `","path":"/a?token=` + planted + `&b=1"}` + "\n" +
		"-----BEGIN EC PRIVATE KEY-----\n" + planted + "\n-----END EC PRIVATE KEY-----\n" +
		"issuer https://user:" + planted + "@issuer.example.com eyJhbGciOiJIUzI1NiJ9." + planted + ".x\nend\n"}
	route := webRoute("web", "web")
	route.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": planted, "mesh.weft.dev/note": "kept"}
	route.Spec.Rules[0].Filters = []gwv1.HTTPRouteFilter{{
		Type:                  gwv1.HTTPRouteFilterRequestHeaderModifier,
		RequestHeaderModifier: &gwv1.HTTPHeaderFilter{Set: []gwv1.HTTPHeader{{Name: "Authorization", Value: planted}, {Name: "X-Version", Value: "v2"}}},
	}}
	authorization := &meshv1alpha1.MeshAuthorization{ObjectMeta: named("shop", "keys")}
	authorization.Spec.Action = "Allow"
	authorization.Spec.Rules = []meshv1alpha1.AuthorizationRule{{To: []meshv1alpha1.AuthorizationOperation{{
		Headers: []meshv1alpha1.AuthorizationHeader{{Name: "x-api-key", Type: "Exact", Value: planted}},
	}}}}
	for _, o := range w.objects {
		if d, ok := o.(*appsv1.Deployment); ok && d.Name == operatorName {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "operator", Env: []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: planted}}}}
		}
	}
	operator := &corev1.Pod{ObjectMeta: named("weft-system", "weft-operator-1"), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	operator.Spec.Containers = []corev1.Container{{Name: "operator", Env: []corev1.EnvVar{{Name: "X", Value: planted}}}}
	operator.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "operator", RestartCount: 1}}
	other := &corev1.Pod{ObjectMeta: named("shop", "web-1"), Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.9"}}
	other.Annotations = map[string]string{"example.com/key": planted}
	other.Spec.Containers = []corev1.Container{{Name: "web", Image: "web", Args: []string{"--password=" + planted}}}
	event := &corev1.Event{
		ObjectMeta: named("shop", "e1"), Reason: "Conflicted", Message: "the key password=" + planted + " is not good", LastTimestamp: metav1.Time{Time: today},
		InvolvedObject: corev1.ObjectReference{Kind: "HTTPRoute", Namespace: "shop", Name: "web"},
	}
	foreign := &corev1.Event{ObjectMeta: named("shop", "e2"), Message: planted, LastTimestamp: metav1.Time{Time: today}, InvolvedObject: corev1.ObjectReference{Kind: "Pod"}}
	secret := &corev1.Secret{ObjectMeta: named("shop", "weft-identity-web"), Data: map[string][]byte{"tls.key": []byte(planted)}}
	w.objects = append(w.objects, webService(), route, authorization, operator, other, event, foreign, secret)
	key := certificateOf("web", today.Add(time.Hour))
	key.Certificate.Key = planted
	w.proxyPod(t, "weft-proxy-1", wire.Delta{Seq: 1, Upserted: append(w.compiled(t), key)})
	w.proxyPod(t, "web-2", wire.Delta{Seq: 1, Upserted: []wire.Resource{key}})
	beside, ok := w.objects[len(w.objects)-1].(*corev1.Pod)
	if !ok {
		t.Fatal("no pod")
	}
	beside.Labels = map[string]string{meshv1alpha1.SidecarLabel: "true"}
	beside.Spec.Containers = other.Spec.Containers
	beside.Spec.InitContainers = []corev1.Container{{Name: compile.SidecarContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	beside.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: compile.SidecarContainer, RestartCount: 1}}
	return w
}

func TestDebugBundle(t *testing.T) {
	w := secretive(t)
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	got := w.run(t, "debug", "bundle", "--file", file)
	if got.code != exitOK || !strings.HasSuffix(got.out, "Look through it before you give it away.\n") || strings.Contains(got.out, "not read") {
		t.Fatalf("exit code %d, %s%s", got.code, got.out, got.err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := archive.UnpackDirectory(t, data)
	for name, content := range files {
		for _, form := range []string{planted, base64.StdEncoding.EncodeToString([]byte(planted))} {
			if strings.Contains(content, form) {
				t.Errorf("%s holds a secret:\n%s", name, content)
			}
		}
	}
	for name, wants := range map[string]string{
		"version.txt":                     wire.Build,
		"check.txt":                       "checks: ",
		"status.txt":                      "Weft on Kubernetes v1.36.3",
		"analyze.txt":                     "error",
		"proxy-status.txt":                "weft-proxy-1",
		"missing.txt":                     "",
		"events.txt":                      "2026-11-30T12:00:00Z  HTTPRoute shop/web Conflicted: the key password=(redacted) is not good\n",
		"objects/Mesh/default.yaml":       "trustDomain: cluster.local",
		"objects/HTTPRoute/shop/web.yaml": "value: v2",
		"objects/MeshAuthorization/shop/keys.yaml":               "name: x-api-key",
		"objects/Deployment/weft-system/weft-operator.yaml":      "name: HTTPS_PROXY",
		"objects/Pod/shop/web-1.yaml":                            "podIP: 10.0.0.9",
		"proxies/shop/weft-proxy-1/config.json":                  `"spiffeID": "spiffe://cluster.local/ns/shop/sa/web"`,
		"proxies/shop/weft-proxy-1/metrics.txt":                  "weft_",
		"logs/weft-system/weft-operator-1/operator.log":          "start\n",
		"logs/weft-system/weft-operator-1/operator.previous.log": "previous",
		"objects/Pod/shop/web-2.yaml":                            "name: weft-proxy",
		"proxies/shop/web-2/config.json":                         `"spiffeID": "spiffe://cluster.local/ns/shop/sa/web"`,
		"logs/shop/web-2/weft-proxy.log":                         "start\n",
		"logs/shop/web-2/weft-proxy.previous.log":                "previous",
	} {
		content, ok := files[name]
		if !ok || !strings.Contains(content, wants) {
			t.Errorf("%s (there: %t) does not hold %q:\n%s", name, ok, wants, content)
		}
	}
	for name := range files {
		if strings.HasPrefix(name, "logs/shop/") && !strings.Contains(name, "weft-proxy") {
			t.Errorf("%s is of no business of Weft's", name)
		}
	}
	if kept := files["objects/HTTPRoute/shop/web.yaml"]; !strings.Contains(kept, "mesh.weft.dev/note: kept") || !strings.Contains(kept, "name: Authorization") {
		t.Errorf("more than secrets is left out:\n%s", kept)
	}
	if log := files["logs/weft-system/weft-operator-1/operator.log"]; !strings.HasSuffix(log, "\nend\n") {
		t.Errorf("the log ends early:\n%s", log)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the archive: %v, %v", info.Mode(), err)
	}
}

func TestDebugBundleOfWhatMayBeRead(t *testing.T) {
	w := secretive(t)
	w.way = closedWay{}
	w.logs = apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "weft-operator-1", errors.New("no"))
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	got := w.run(t, "debug", "bundle", "--file", file, "-o", "json")
	var b bundled
	if err := json.Unmarshal([]byte(got.out), &b); err != nil || got.code != exitOK {
		t.Fatalf("exit code %d, %v in %s%s", got.code, err, got.out, got.err)
	}
	for _, what := range []string{"proxies/shop/weft-proxy-1/config.json: ", "logs/weft-system/weft-operator-1/operator.log: "} {
		if !slices.ContainsFunc(b.Missing, func(text string) bool { return strings.HasPrefix(text, what) && strings.Contains(text, "forbidden") }) {
			t.Errorf("%s is not said to be missing: %v", what, b.Missing)
		}
	}
	got = w.run(t, "debug", "bundle", "--file", "-")
	if files := archive.UnpackDirectory(t, []byte(got.out)); !strings.Contains(files["missing.txt"], "forbidden") {
		t.Errorf("missing.txt = %q", files["missing.txt"])
	}
	if got := (&world{get: apierrors.NewForbidden(schema.GroupResource{Resource: "meshes"}, "default", errors.New("no"))}).run(t, "debug", "bundle", "--file", file); got.code != exitForbidden {
		t.Errorf("without any right: exit code %d, %s", got.code, got.err)
	}
}
