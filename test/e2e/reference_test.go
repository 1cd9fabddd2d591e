//go:build e2e

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/docs"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// reference is the mesh that the examples of docs/cli.md are about.
const reference = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {role: backend}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-staging, namespace: shop}
spec: {selector: {role: backend}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {role: backend}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v1, namespace: shop}
spec: {selector: {role: backend}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v2, namespace: shop}
spec: {selector: {role: backend}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {role: backend}, ports: [{name: grpc, port: 9000, targetPort: 9000}]}
`

// referenceCallers are who calls.
const referenceCallers = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: front, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-5d7f, namespace: front, labels: {app: web-5d7f}}
spec:
  serviceAccountName: web
  containers: [{name: web, image: example.com/web}]
`

// referenceRoutes are its routes; requests below /api have nowhere to go.
const referenceRoutes = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - name: everybody
    backendRefs: [{name: cart-v1, port: 80, weight: 90}, {name: cart-v2, port: 80, weight: 10}]
  - name: broken
    matches: [{path: {type: PathPrefix, value: /api}}]
    backendRefs: [{name: cart-v1, port: 80, weight: 0}]
`

// endless are beginnings of what the examples write that go on until they are interrupted.
var endless = map[string]string{
	"kubectl weft run ": "CLIENTS OF...", "kubectl weft tap ": "...500...", "kubectl weft split shop/cart --set v2=20 --watch": "...shop/cart...",
	"kubectl weft tap shop/cart:80 --path /api -o json": "{...",
}

// answers are examples whose answer is bad, which their exit code tells.
var answers = map[string]string{
	"kubectl weft routes diff ": "exit=1", // it would change something
	"kubectl weft analyze ":     "exit=1", // the rule for /api
}

// TestReferenceOfCommands runs every example of docs/cli.md, line by line. The examples ask the proxies that pods share.
func TestReferenceOfCommands(t *testing.T) {
	t.Parallel()
	for _, namespace := range []string{"shop", "front"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: placed(meshv1alpha1.PlacementNamespace)}}
		ns.Labels[meshv1alpha1.EnabledLabel] = "true"
		absentAround(t, ns.DeepCopy())
		if err := bed.Client.Create(t.Context(), ns); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	routes := referenceRoutes
	for file, text := range map[string]string{
		"manifests/services.yaml": reference, "manifests/routes.yaml": routes, "manifests/callers.yaml": referenceCallers,
		"services/services.yaml": reference, "services/callers.yaml": referenceCallers,
		"old.yaml": routes, "new.yaml": strings.Replace(routes, "/api", "/other", 1), "new/routes.yaml": strings.Replace(routes, "/api", "/", 1),
	} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(bed.Path(t, "examples"), filepath.Join(dir, "examples")); err != nil {
		t.Fatal(err)
	}
	s := session(t, dir)
	play(t, s, &docs.Block{Text: "kubectl create serviceaccount web -n front"})
	pods := bed.Run(t, "shop", testbed.App{Name: "backend", Version: "v1", Labels: map[string]string{"role": "backend"}})
	pods = append(pods, bed.Run(t, "front", testbed.App{Name: "web-5d7f", ServiceAccount: "web"})...)
	play(t, s, &docs.Block{Text: "kubectl apply -f services/services.yaml -f old.yaml"})
	bed.Proxies(t, "shop")
	bed.Proxies(t, "front")
	log := testbed.MeshPolicy(t, "shop", "metadata: {name: log}\nspec: {telemetry: {accessLog: {rules: [{}]}}}")
	bed.Enforce(t, log)
	for _, client := range pods {
		captured(t, client, traffic.Request{URL: "http://cart.shop/"})
		client.Load(t, traffic.Load{Workers: 1, Rate: 20, Requests: []traffic.Request{{URL: "http://cart.shop/"}, {URL: "http://cart.shop/api"}}})
	}
	// Proxies have counted, and written about, both.
	play(t, s, &docs.Block{Text: "kubectl logs -n front -l mesh.weft.dev/component=proxy --tail=-1 | tee access.log | grep -c /api", Shown: "..."})

	blocks, err := docs.Read(bed.Path(t), "docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if !forCluster(b) {
			continue
		}
		for line := range strings.Lines(b.Text) {
			example := &docs.Block{Page: b.Page, Line: b.Line, Text: strings.TrimSpace(line), Shown: "..."}
			longest := ""
			for beginning, shown := range endless {
				if strings.HasPrefix(example.Text, beginning) && len(beginning) > len(longest) {
					longest, example.Shown, example.Words = beginning, shown, []string{"background"}
				}
			}
			for part, word := range answers {
				if strings.Contains(example.Text, part) {
					example.Words = []string{word}
				}
			}
			// One that is endless ends with its session.
			s := begin(t, dir)
			if err := errors.Join(s.Play(t.Context(), example), s.Close()); err != nil {
				t.Errorf("%s: %v", example.Text, err)
			}
		}
	}
}
