//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestReplayedLog asks what a change of a route would mean for requests that the proxies of this cluster have written down.
func TestReplayedLog(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	all, v1, v2 := w.services(t, "replayed")
	policy := testbed.MeshPolicy(t, w.home, `
metadata: {name: replayed}
spec:
  targetRefs: [{group: "", kind: Service, name: replayed}]
  telemetry: {accessLog: {rules: [{samplingRate: {numerator: 1, denominator: 1}}]}}
`)
	bed.Enforce(t, policy)
	route := testbed.HTTPRoute(t, w.home, `
metadata: {name: replayed}
spec:
  parentRefs: [{group: "", kind: Service, name: replayed, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /moves}}]
    backendRefs: [{name: replayed-v1, port: 80}]
  - backendRefs: [{name: replayed-v1, port: 80}]
`)
	bed.Program(t, route)
	url := "http://replayed." + w.home
	expect(t, w.client, traffic.Request{URL: url + "/stays"}, from("v1"))
	always(t, w.client, traffic.Request{URL: url + "/moves"}, from("v1"))

	var log strings.Builder
	testbed.Eventually(t, func(ctx context.Context) error {
		log.Reset()
		for _, p := range bed.ProxiesOf(t, w.client) {
			text, err := bed.ProxyLog(ctx, p)
			if err != nil {
				return err
			}
			for line := range strings.Lines(text) {
				// Before the route there were other lines.
				if strings.Contains(line, `"weft.destination.service":"replayed"`) && strings.Contains(line, `"weft.route.name"`) {
					log.WriteString(line)
				}
			}
		}
		if n := strings.Count(log.String(), `"/moves"`); n < tries {
			return fmt.Errorf("the proxies have written %d lines about /moves, want %d", n, tries)
		}
		return nil
	})
	folder := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	declared := func(name string) string {
		t.Helper()
		var text strings.Builder
		for _, object := range []client.Object{all, v1, v2, policy, route} {
			kinds, _, err := bed.Client.Scheme().ObjectKinds(object)
			if err != nil {
				t.Fatal(err)
			}
			object.GetObjectKind().SetGroupVersionKind(kinds[0])
			data, err := yaml.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "---\n%s", data)
		}
		return write(name, text.String())
	}
	viewer := bed.Person(t, w.home, "replayer", "weft-viewer")
	recorded := write("access.log", log.String())
	says(t, viewer, 0, "routes diff cluster "+declared("same.yaml")+" --replay "+recorded, " the same\n")
	route.Spec.Rules[0].BackendRefs[0].Name = "replayed-v2"
	says(t, viewer, 1, "routes diff cluster "+declared("new.yaml")+" --replay "+recorded,
		fmt.Sprintf("%d requests, such as GET http://replayed.%s/moves\n", tries, w.home), "backends: 100 % "+w.home+"/replayed-v1:80 -> 100 % "+w.home+"/replayed-v2:80\n")
}
