package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

// routesIn reads HTTPRoutes as kubectl apply would.
func routesIn(t *testing.T, text string) []gwv1.HTTPRoute {
	t.Helper()
	var all []gwv1.HTTPRoute
	for _, document := range strings.Split(text, "---\n")[1:] {
		var r gwv1.HTTPRoute
		if err := yaml.UnmarshalStrict([]byte(document), &r); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		all = append(all, r)
	}
	return all
}

// The command and the script of examples/environments write the same.
func TestEnvironmentsLikeTheExample(t *testing.T) {
	const app = "../../examples/environments/app.yaml"
	m, err := mesh.Files([]string{app}, mesh.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var services strings.Builder
	for _, svc := range m.Snapshot.Services {
		fmt.Fprintf(&services, "%s %s 80\n", svc.Namespace, svc.Name)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\ncat <<'END'\n" + services.String() + "END\n"
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "../../examples/environments/twins.sh", "staging")
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errOut)
	}
	got := (&world{}).run(t, "environments", "write", "staging", "-f", app)
	want := routesIn(t, out.String())
	if diff := cmp.Diff(want, routesIn(t, got.out)); diff != "" || len(want) != 2 || got.code != exitOK {
		t.Errorf("exit code %d, %s (-want +got):\n%s", got.code, got.err, diff)
	}
}
