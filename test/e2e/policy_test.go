//go:build e2e

package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
)

// kubectl runs the cluster's kubectl and returns what it prints.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "../../build/cluster/kubectl", append([]string{"--kubeconfig", "../../build/cluster/kubeconfig"}, args...)...)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// rows splits a table into its rows and those into their columns.
func rows(table string) [][]string {
	var out [][]string
	for line := range strings.Lines(table) {
		out = append(out, strings.Fields(line))
	}
	return out
}

// TestMeshPolicyColumns: what people see who type kubectl get meshpolicy.
func TestMeshPolicyColumns(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	service, _, _ := w.services(t, "columns")
	policy := func(name, target string) *meshv1alpha1.MeshPolicy {
		return testbed.MeshPolicy(t, w.home, "metadata: {name: "+name+"}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: "+target+"}]\n  timeouts: {request: 5s}\n")
	}
	bed.Enforce(t, policy("columns-first", service.Name))
	for name, wrong := range map[string]*meshv1alpha1.MeshPolicy{
		"Conflicted": policy("columns-second", service.Name), "TargetNotFound": policy("columns-third", "columns-nowhere"),
	} {
		bed.Create(t, wrong)
		testbed.Await(t, bed, wrong, func(p *meshv1alpha1.MeshPolicy) string {
			if c := meta.FindStatusCondition(p.Status.Conditions, meshv1alpha1.PolicyAccepted); c == nil || c.Reason != name {
				return "not " + name
			}
			return ""
		})
	}
	want := map[string][]string{
		"columns-first":  {"Service/columns", "True", "True", "True", "Ready"},
		"columns-second": {"Service/columns", "False", "False", "False", "Conflicted"},
		"columns-third":  {"Service/columns-nowhere", "False", "False", "False", "TargetNotFound"},
	}
	for header, args := range map[string][]string{
		"NAME TARGET READY ACCEPTED PROGRAMMED AGE":        {"meshpolicy"},
		"NAME TARGET READY ACCEPTED PROGRAMMED REASON AGE": {"mpol", "-o", "wide"},
	} {
		table := rows(kubectl(t, append([]string{"get", "-n", w.home}, args...)...))
		if got := strings.Join(table[0], " "); got != header {
			t.Errorf("kubectl get %v prints columns %s, want %s", args, got, header)
		}
		found := 0
		for _, row := range table[1:] {
			columns, ours := want[row[0]]
			if !ours {
				continue
			}
			found++
			// The last column is the age.
			shown := row[1 : len(row)-1]
			if got, want := strings.Join(shown, " "), strings.Join(columns[:len(shown)], " "); got != want {
				t.Errorf("kubectl get %v prints %s %s, want %s", args, row[0], got, want)
			}
		}
		if found != len(want) {
			t.Errorf("kubectl get %v prints %d of %d policies", args, found, len(want))
		}
	}
	if got := kubectl(t, "get", "gateway-api", "-n", w.home, "-o", "name"); !strings.Contains(got, "meshpolicy.mesh.weft.dev/columns-first") {
		t.Errorf("the category gateway-api has %s", got)
	}
}
