package main

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/test/feature/harness"
)

// examples are the objects of a folder: what the mesh reads, and Deployments.
func examples(t *testing.T, folder string) (compile.Snapshot, []*appsv1.Deployment) {
	t.Helper()
	dir := os.DirFS("../../examples/" + folder)
	files, err := fs.Glob(dir, "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	var s compile.Snapshot
	var deployments []*appsv1.Deployment
	for _, file := range files {
		content, err := fs.ReadFile(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(content), "# ") {
			t.Errorf("%s does not begin with a comment that says what it is for", file)
		}
		documents, err := harness.Documents(content)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, document := range documents {
			deployment := &appsv1.Deployment{}
			if err := yaml.UnmarshalStrict(document, deployment); err == nil && deployment.Kind == "Deployment" {
				deployments = append(deployments, deployment)
			} else if err := harness.Decode(document, &s); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	return s, deployments
}

// TestExamplesCompile: every example is accepted as it is.
func TestExamplesCompile(t *testing.T) {
	for _, folder := range []string{"canary", "demo"} {
		t.Run(folder, func(t *testing.T) {
			s, _ := examples(t, folder)
			result := compile.Compile(s)
			if len(result.Routes) != 2 {
				t.Fatalf("%d routes, want an HTTPRoute and a GRPCRoute", len(result.Routes))
			}
			for _, r := range result.Routes {
				if len(r.Parents) == 0 {
					t.Errorf("%s %s has no Service for a parent", r.Kind, r.Name)
				}
				for _, p := range r.Parents {
					for _, c := range p.Conditions {
						if c.Status != metav1.ConditionTrue || c.Reason != c.Type {
							t.Errorf("%s %s: %s=%s %s: %s", r.Kind, r.Name, c.Type, c.Status, c.Reason, c.Message)
						}
					}
				}
			}
		})
	}
}

// TestDemoServices: every Service of the demo selects the pods it is meant for, and they have its ports.
func TestDemoServices(t *testing.T) {
	s, deployments := examples(t, "demo")
	want := map[string]string{"web": "web-v1 web-v2", "web-v1": "web-v1", "web-v2": "web-v2"}
	if len(s.Services) != len(want) {
		t.Errorf("%d Services, want %d", len(s.Services), len(want))
	}
	for _, svc := range s.Services {
		var selected []string
		for _, d := range deployments {
			template := &d.Spec.Template
			if !labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(template.Labels)) {
				continue
			}
			selected = append(selected, d.Name)
			named := map[string]bool{}
			for _, port := range template.Spec.Containers[0].Ports {
				named[port.Name] = true
			}
			for _, port := range svc.Spec.Ports {
				if !named[port.TargetPort.StrVal] {
					t.Errorf("pods of %s have no port %s for Service %s", d.Name, port.TargetPort.String(), svc.Name)
				}
			}
		}
		if got := strings.Join(selected, " "); got != want[svc.Name] {
			t.Errorf("Service %s selects %q, want %q", svc.Name, got, want[svc.Name])
		}
	}
}

// TestWeightsPatch: the patch changes what the story says it does.
func TestWeightsPatch(t *testing.T) {
	s, _ := examples(t, "demo")
	before, err := yaml.Marshal(s.HTTPRoutes[0])
	if err != nil {
		t.Fatal(err)
	}
	document, err := yaml.YAMLToJSON(before)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch([]byte(weightsPatch(50, 51)))
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(document)
	if err != nil {
		t.Fatal(err)
	}
	var route gwv1.HTTPRoute
	if err := yaml.Unmarshal(after, &route); err != nil {
		t.Fatal(err)
	}
	refs := route.Spec.Rules[0].BackendRefs
	got := fmt.Sprintf("%s=%d %s=%d", refs[0].Name, *refs[0].Weight, refs[1].Name, *refs[1].Weight)
	if want := "web-v1=50 web-v2=51"; got != want {
		t.Errorf("patched to %s, want %s", got, want)
	}
}
