package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/controllers/compile"
)

// TestPlaced says of pods where their proxies are, and of those that have none of their own what that means.
func TestPlaced(t *testing.T) {
	for name, tc := range map[string]struct {
		namespace, pod string
		has            bool
		want           []string
	}{
		"shared":                  {want: []string{"a proxy of namespace shop"}},
		"beside":                  {namespace: "sidecar", has: true, want: []string{"the proxy beside it"}},
		"made without":            {namespace: "sidecar", want: []string{"a proxy of namespace shop", "one beside it is wanted", "strict ports are refused to all but its node"}},
		"made before":             {has: true, want: []string{"the proxy beside it", "takes a restart"}},
		"what nobody knows":       {pod: "ambient", want: []string{"a proxy of namespace shop", `"ambient" is neither`}},
		"what nobody knows there": {namespace: "ambient", want: []string{"a proxy of namespace shop", `"ambient" is neither`}},
	} {
		t.Run(name, func(t *testing.T) {
			labels := func(placement string) map[string]string {
				if placement == "" {
					return map[string]string{}
				}
				return map[string]string{meshv1alpha1.PlacementLabel: placement}
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: labels(tc.pod)}}
			if tc.has {
				pod.Labels[meshv1alpha1.SidecarLabel] = "true"
				pod.Spec.InitContainers = []corev1.Container{{Name: compile.SidecarContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
			}
			m := &mesh.Mesh{}
			m.Snapshot.Namespaces = []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: labels(tc.namespace)}}}
			got := placed(&describing{mesh: m}, pod)
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q does not say %q", got, want)
				}
			}
		})
	}
}
