//go:build e2e

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// previousTag is the tag of the images of the release before.
const previousTag = "previous"

// TestUpgrade installs the release before this one by its own manifests, and this one over it, under load: the
// operator serves proxies of the release before, which are then replaced one namespace after the other, and no request
// fails. A namespace whose proxies do not know who may call is closed until it has new ones. Then the operator goes back
// and serves the proxies of this release.
func TestUpgrade(t *testing.T) {
	bed := connected(t)
	before := previous(t)
	installed := must(t)(manifests())
	must(t)(kubectl(installed, "delete", "--ignore-not-found", "-f", "-"))
	must(t)(kubectl(before, "apply", "--server-side", "--force-conflicts", "-f", "-"))
	if err := bed.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantProxies(t, "weft-proxy:"+previousTag)
	t.Cleanup(func() { wantProxies(t, "") })
	w := newTown(t, bed)
	v := newVault(t, bed, w.clients[1])
	var loads []*testbed.Load
	for _, c := range w.clients { // 300 requests a second
		for _, fresh := range []bool{false, true} {
			loads = append(loads, c.Load(t, traffic.Load{Requests: []traffic.Request{w.request()}, Workers: 4, Rate: 75, NewConnections: fresh}))
		}
	}

	must(t)(kubectl(installed, "apply", "--server-side", "--force-conflicts", "-f", "-"))
	rolledOut(t)
	w.remark(t, bed, "mixed")
	policy := testbed.MeshPolicy(t, w.home, `
metadata: {name: limit}
spec: {targetRefs: [{group: "", kind: Service, name: web}], rateLimits: [{requests: 1000000, interval: 1s}]}
`)
	bed.Create(t, policy)
	testbed.Await(t, bed, policy, func(p *meshv1alpha1.MeshPolicy) string {
		c := meta.FindStatusCondition(p.Status.Conditions, "Programmed")
		if c != nil && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "earlier release") {
			return ""
		}
		return "proxies that know no policies are not told from others: " + testbed.Describe(p.Status.Conditions)
	})
	v.cutOff(t, bed)

	replaced := follow(t, bed, w.home, w.abroad)
	wantProxies(t, "")
	awaitProxies(t, bed, w, "weft-proxy:"+strings.TrimPrefix(imageTag(t, installed), ":"))
	if at := replaced(); at != 1 {
		t.Errorf("the proxies of %d namespaces were replaced at once, want one after the other", at)
	}
	w.remark(t, bed, "current")
	testbed.Await(t, bed, policy, func(p *meshv1alpha1.MeshPolicy) string {
		if c := meta.FindStatusCondition(p.Status.Conditions, "Programmed"); c != nil && c.Status == metav1.ConditionTrue {
			return ""
		}
		return testbed.Describe(p.Status.Conditions)
	})
	v.open(t, bed)
	unharmed(t, loads)

	wantProxies(t, "weft-proxy:"+imageTag(t, installed))
	must(t)(kubectl(before, "apply", "--server-side", "--force-conflicts", "-f", "-"))
	rolledOut(t)
	w.remark(t, bed, "back")
	if images := proxyImages(t, bed, w); slices.Contains(images, "weft-proxy:"+previousTag) {
		t.Errorf("the operator of the release before replaced the proxies: %v", images)
	}
}

// previous builds the release before this one, loads its images and returns its manifests.
func previous(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("previous-version")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	commit := lines[len(lines)-1]
	if _, err := command(nil, "git", "cat-file", "-e", commit+"^{commit}"); err != nil {
		t.Fatalf("the release before this one, %s, is not in the history of this checkout: fetch it (git fetch --unshallow)", commit)
	}
	dir := filepath.Join("build", "previous", commit[:12])
	if _, err := os.Stat(filepath.Join(root, dir, "go.mod")); err != nil {
		archive := must(t)(command(nil, "git", "archive", commit))
		must(t)(command(nil, "mkdir", "-p", dir))
		must(t)(command(archive, "tar", "-x", "-C", dir))
	}
	must(t)(command(nil, "make", "-C", dir, "images", "VERSION="+previousTag, "IMAGE_PREFIX="))
	must(t)(command(nil, "make", "-C", dir, "build/deploy", "VERSION="+previousTag, "IMAGE_PREFIX="))
	load := []string{"run", "./test/cluster", "load"}
	for _, name := range []string{"weft-operator", "weft-proxy", "weft-node"} {
		load = append(load, filepath.Join(dir, "build", "images", name+".tar"))
	}
	must(t)(command(nil, "go", load...))
	return must(t)(command(nil, "go", "tool", "-modfile=tools/kustomize/go.mod", "kustomize", "build", filepath.Join(dir, "build", "deploy")))
}

// wantProxies has the operator run proxies of an image; the empty one leaves it to its release.
func wantProxies(t *testing.T, image string) {
	t.Helper()
	value := "null"
	if image != "" {
		value = fmt.Sprintf("%q", image)
	}
	must(t)(kubectl(nil, "patch", "mesh", meshv1alpha1.MeshName, "--type=merge", "-p", fmt.Sprintf(`{"spec":{"proxy":{"image":%s}}}`, value)))
}

// rolledOut waits until operator and node agents are those of the manifests that were applied.
func rolledOut(t *testing.T) {
	t.Helper()
	for _, what := range []string{"deployment/weft-operator", "daemonset/weft-node"} {
		must(t)(kubectl(nil, "-n", testbed.SystemNamespace, "rollout", "status", what, "--timeout=120s"))
	}
}

// remark changes the route and waits until both clients see it.
func (w *town) remark(t *testing.T, bed *testbed.Bed, mark string) {
	t.Helper()
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: w.home, Name: "web"}}
	testbed.Update(t, bed, route, func(r *gwv1.HTTPRoute) {
		r.Spec.Rules[0].Filters[0].RequestHeaderModifier.Set[0].Value = mark
	})
	bed.AwaitProgrammed(t, route)
	for _, c := range w.clients {
		w.await(t, c, mark)
	}
}

// imageTag is the tag that manifests give the image of the proxies.
func imageTag(t *testing.T, manifests []byte) string {
	t.Helper()
	_, rest, found := strings.Cut(string(manifests), "weft-proxy:")
	if !found {
		t.Fatal("the manifests name no image of the proxies")
	}
	return strings.Fields(rest)[0]
}

func proxyImages(t *testing.T, bed *testbed.Bed, w *town) []string {
	t.Helper()
	var images []string
	for _, namespace := range []string{w.home, w.abroad} {
		d := &appsv1.Deployment{}
		if err := bed.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: meshv1alpha1.ProxyName}, d); err != nil {
			t.Fatal(err)
		}
		images = append(images, d.Spec.Template.Spec.Containers[0].Image)
	}
	return images
}

// awaitProxies waits until all proxies are of an image, and the Mesh says so.
func awaitProxies(t *testing.T, bed *testbed.Bed, w *town, image string) {
	t.Helper()
	mesh := &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*testbed.Patience)
	defer cancel()
	if err := testbed.Poll(ctx, func(ctx context.Context) error {
		if images := proxyImages(t, bed, w); slices.ContainsFunc(images, func(i string) bool { return i != image }) {
			return fmt.Errorf("the proxies are of %v, want %s", images, image)
		}
		if err := bed.Client.Get(ctx, client.ObjectKeyFromObject(mesh), mesh); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(mesh.Status.Conditions, meshv1alpha1.MeshProxiesCurrent) {
			return errors.New(testbed.Describe(mesh.Status.Conditions))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// follow watches the proxies of namespaces until the function that it returns is called, which tells in how many there
// were proxies of two images at one time.
func follow(t *testing.T, bed *testbed.Bed, namespaces ...string) (most func() int) {
	t.Helper()
	pods, err := bed.Client.Watch(t.Context(), &corev1.PodList{}, client.MatchingLabels{meshv1alpha1.ComponentLabel: "proxy"})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	worst, began := 0, time.Now()
	images := map[string]map[string]string{}
	for _, namespace := range namespaces {
		images[namespace] = map[string]string{}
	}
	group.Go(func() {
		for e := range pods.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok || images[pod.Namespace] == nil {
				continue
			}
			// An old proxy may finish what it has begun while the next namespace has its turn.
			if e.Type == "DELETED" || pod.DeletionTimestamp != nil {
				delete(images[pod.Namespace], pod.Name)
			} else {
				images[pod.Namespace][pod.Name] = pod.Spec.Containers[0].Image
			}
			mixed := 0
			for _, of := range images {
				if kinds := slices.Compact(slices.Sorted(maps.Values(of))); len(kinds) > 1 {
					mixed++
				}
			}
			worst = max(worst, mixed)
		}
	})
	return func() int {
		pods.Stop()
		group.Wait()
		t.Logf("all proxies were replaced within %s", time.Since(began).Round(100*time.Millisecond))
		return worst
	}
}
