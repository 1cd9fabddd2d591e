package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/config/node"
)

// TestAgentsAreThoseOfTheManifests: but for where they are, what they run and whose they are.
func TestAgentsAreThoseOfTheManifests(t *testing.T) {
	own := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "mesh", Name: deploymentName, UID: "own"}}
	u, err := agentsOf(own, "example.com/weft-node@sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	var got, want appsv1.DaemonSet
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, &got, true); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(node.DaemonSet, &want); err != nil {
		t.Fatal(err)
	}
	want.Namespace = "mesh"
	want.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: deploymentName, UID: "own"}}
	want.Spec.Template.Spec.Containers[0].Image = "example.com/weft-node@sha256:1"
	for _, meta := range []*metav1.ObjectMeta{&want.ObjectMeta, &want.Spec.Template.ObjectMeta} {
		meta.Labels["app.kubernetes.io/managed-by"], meta.Labels["app.kubernetes.io/part-of"] = "weft", "weft"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("agents (-want +got):\n%s", diff)
	}
	selector, err := metav1.LabelSelectorAsSelector(got.Spec.Selector)
	if err != nil || !selector.Matches(labels.Set(got.Spec.Template.Labels)) {
		t.Errorf("the selector %v does not match the pods (error %v)", selector, err)
	}
}
