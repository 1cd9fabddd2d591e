package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// definitions answers for CRDs by name; one that it does not have does not exist.
type definitions map[string]*unstructured.Unstructured

func (d definitions) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	found, ok := d[key.Name]
	if !ok {
		return apierrors.NewNotFound(needed[0], key.Name)
	}
	into, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("a %T is asked for", object)
	}
	found.DeepCopyInto(into)
	return nil
}

func (d definitions) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nobody may list definitions")
}

func TestWhatIsInstalled(t *testing.T) {
	// crd serves versions, of which one with a minus is there and not served.
	crd := func(bundle string, versions ...string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetAnnotations(map[string]string{bundleVersion: bundle})
		var list []any
		for _, v := range versions {
			list = append(list, map[string]any{"name": strings.TrimPrefix(v, "-"), "served": !strings.HasPrefix(v, "-")})
		}
		if err := unstructured.SetNestedSlice(u.Object, list, "spec", "versions"); err != nil {
			t.Fatal(err)
		}
		return u
	}
	all := func(change func(definitions)) definitions {
		d := definitions{
			"httproutes.gateway.networking.k8s.io": crd("v1.7.0", "v1", "v1beta1"), "grpcroutes.gateway.networking.k8s.io": crd("v1.7.0", "v1"),
			"meshpolicies.mesh.weft.dev": crd("", "v1alpha1"), "meshauthorizations.mesh.weft.dev": crd("", "v1alpha1"),
		}
		change(d)
		return d
	}
	cases := map[string]struct {
		there       definitions
		wantMissing string
		want        string // the condition's status and reason
	}{
		"everything":         {all(func(definitions) {}), "[]", "True Installed"},
		"a later release":    {all(func(d definitions) { d["grpcroutes.gateway.networking.k8s.io"] = crd("v1.9.0-rc.1", "v1") }), "[]", "True Installed"},
		"somebody's own":     {all(func(d definitions) { d["grpcroutes.gateway.networking.k8s.io"] = crd("main", "v1") }), "[]", "True Installed"},
		"an earlier release": {all(func(d definitions) { d["grpcroutes.gateway.networking.k8s.io"] = crd("v1.4.1", "v1") }), "[]", "False Outdated"},
		"no GRPCRoute":       {all(func(d definitions) { delete(d, "grpcroutes.gateway.networking.k8s.io") }), "[grpcroutes.gateway.networking.k8s.io]", "False Missing"},
		"an old GRPCRoute": {
			all(func(d definitions) { d["grpcroutes.gateway.networking.k8s.io"] = crd("v1.0.0", "v1alpha2", "-v1") }),
			"[grpcroutes.gateway.networking.k8s.io]", "False Missing",
		},
		"an old HTTPRoute": {
			all(func(d definitions) { d["httproutes.gateway.networking.k8s.io"] = crd("v0.8.1", "v1beta1") }),
			"[httproutes.gateway.networking.k8s.io]", "False Missing",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			found, err := findInstalled(t.Context(), tc.there)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(found.missing); got != tc.wantMissing {
				t.Errorf("missing %s, want %s", got, tc.wantMissing)
			}
			status := meshStatus(&meshv1alpha1.Mesh{}, observation{installed: found})
			c := meta.FindStatusCondition(status.Conditions, meshv1alpha1.MeshGatewayAPI)
			if got := string(c.Status) + " " + c.Reason; got != tc.want {
				t.Errorf("condition %s (%s), want %s", got, c.Message, tc.want)
			}
		})
	}
}
