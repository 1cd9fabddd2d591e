package mesh

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ReadNetwork finds out what there is to know of a cluster's network. Cilium says it in a ConfigMap, Calico in a
// kind of its own; nothing is known of others, nor where that may not be read.
func ReadNetwork(ctx context.Context, r client.Reader) (Network, error) {
	cilium := &corev1.ConfigMap{}
	err := r.Get(ctx, types.NamespacedName{Namespace: "kube-system", Name: "cilium-config"}, cilium)
	if err == nil {
		is := func(key string) bool { return cilium.Data[key] == "true" }
		return Network{
			Plugin: "Cilium", Encrypts: is("enable-wireguard") || is("enable-ipsec"),
			SocketLB: is("kube-proxy-replacement") && !is("bpf-lb-sock-hostns-only"),
		}, nil
	}
	if err := ignoreAbsent(err); err != nil {
		return Network{}, fmt.Errorf("look for Cilium: %w", err)
	}
	felix := &unstructured.Unstructured{}
	felix.SetGroupVersionKind(schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "FelixConfiguration"})
	err = r.Get(ctx, types.NamespacedName{Name: "default"}, felix)
	if err == nil {
		encrypts, _, _ := unstructured.NestedBool(felix.Object, "spec", "wireguardEnabled")
		return Network{Plugin: "Calico", Encrypts: encrypts}, nil
	}
	if err := ignoreAbsent(err); err != nil {
		return Network{}, fmt.Errorf("look for Calico: %w", err)
	}
	return Network{}, nil
}

// ignoreAbsent returns nil for what does not exist or may not be read.
func ignoreAbsent(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || meta.IsNoMatchError(err) {
		return nil
	}
	return err
}
