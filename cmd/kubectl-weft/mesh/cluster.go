package mesh

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/infra"
)

// ErrNotInstalled says that the cluster has no Weft, or not all that Weft needs.
var ErrNotInstalled = errors.New("no Weft in this cluster")

// Scheme returns the kinds that a mesh consists of.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, gwv1.Install, meshv1alpha1.AddToScheme} {
		utilruntime.Must(add(scheme))
	}
	return scheme
}

// Cluster reads a mesh from a cluster. system is the namespace where Weft runs. The error is ErrNotInstalled
// where a kind of Weft or of the Gateway API is missing.
func Cluster(ctx context.Context, r client.Reader, system string) (*Mesh, error) {
	m := &Mesh{Live: true}
	var err error
	if m.Snapshot, err = cluster.Load(ctx, r); err != nil {
		return nil, NotInstalled(err)
	}
	m.Snapshot.SystemNamespace = system
	if m.Pods, err = cluster.Pods(ctx, r); err != nil {
		return nil, err
	}
	if m.Nodes, err = cluster.Nodes(ctx, r); err != nil {
		return nil, err
	}
	if m.NetworkPolicies, err = cluster.NetworkPolicies(ctx, r); err != nil {
		return nil, err
	}
	// Without the roots the Mesh resource differs from what proxies have; everything else is the same.
	bundle := &corev1.ConfigMap{}
	err = r.Get(ctx, types.NamespacedName{Namespace: system, Name: infra.TrustBundleName}, bundle)
	if err := ignoreAbsent(err); err != nil {
		return nil, fmt.Errorf("get the mesh's roots: %w", err)
	}
	m.Snapshot.TrustBundle = bundle.Data[infra.TrustBundleKey]
	if m.Network, err = ReadNetwork(ctx, r); err != nil {
		return nil, err
	}
	m.compile()
	return m, nil
}

// NotInstalled tells that a kind does not exist from other failures.
func NotInstalled(err error) error {
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %w", ErrNotInstalled, err)
	}
	return err
}
