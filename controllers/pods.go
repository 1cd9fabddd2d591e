package controllers

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
)

// pods is the side path of identities and of the proxies themselves. Before the first pass it is unknown
// whose they are, and nothing must be published: a client would take it for all there is.
func (w *World) pods(ctx context.Context) (reconcile.Result, error) {
	if w.published == nil {
		return reconcile.Result{}, nil
	}
	pods, err := cluster.Pods(ctx, w.Client)
	if err != nil {
		return reconcile.Result{}, err
	}
	nodes, err := cluster.Nodes(ctx, w.Client)
	if err != nil {
		return reconcile.Result{}, err
	}
	zones := make(map[string]string, len(nodes))
	for _, node := range nodes {
		zones[node.Name] = node.Labels[corev1.LabelTopologyZone]
	}
	served := w.served()
	reports := sandboxes(w.Hub.Nodes())
	claimed := compile.Claimed(pods, reports)
	w.proxies = compile.ReadyProxies(pods, served, zones)
	w.admitted.proxies = compile.AdmittedProxies(pods, reports, served)
	w.inbound(pods, claimed)
	w.lookAtReleases()
	w.readyChanged()
	w.nodes = agents(nodes, pods, w.SystemNamespace)
	w.agentsChanged = w.lookAtAgents(ctx, pods)
	w.otherAccounts = w.accounts != nil && !maps.Equal(w.accounts, compile.ServiceAccounts(pods))
	// Whoever is waited for must be known before anybody can acknowledge anything.
	w.open()
	w.Hub.Replace(distribute.LayerWorkloads, compile.Workloads(claimed, served, zones))
	w.Hub.Replace(distribute.LayerProxies, compile.Proxies(w.ready, served))
	w.podsOf = served
	return w.acknowledged()
}

// sandboxes keeps the nodes that have reported all their pods.
func sandboxes(nodes map[string]distribute.NodeState) compile.Sandboxes {
	out := compile.Sandboxes{}
	for name, node := range nodes {
		if node.Complete {
			out[name] = slices.Collect(maps.Values(node.Pods))
		}
	}
	return out
}

// serviceAccounts returns those that pods run as, if there are authorizations that may name them.
func (w *World) serviceAccounts(ctx context.Context, authorizations int) (map[types.NamespacedName]bool, error) {
	w.accounts, w.otherAccounts = nil, false
	if authorizations == 0 {
		return nil, nil
	}
	pods, err := cluster.Pods(ctx, w.Client)
	if err != nil {
		return nil, err
	}
	w.accounts = compile.ServiceAccounts(pods)
	return w.accounts, nil
}
