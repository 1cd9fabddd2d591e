package controllers

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
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
	w.readyBeside = compile.ReadyBeside(pods, served)
	w.admitted.proxies = compile.AdmittedProxies(pods, reports, served)
	w.replaced = false
	w.inbound(pods, claimed)
	w.lookAtReleases()
	w.readyChanged()
	w.nodes = agents(nodes, pods, w.SystemNamespace)
	w.agentsChanged = w.lookAtAgents(ctx, pods)
	w.otherAccounts = w.accounts != nil && !maps.Equal(w.accounts, compile.ServiceAccounts(pods))
	// Whoever is waited for must be known before anybody can acknowledge anything.
	w.open()
	w.speak(compile.SidecarAddresses(claimed, served))
	w.publishWorkloads(compile.Workloads(claimed, served, zones, w.workloads), compile.Sidecars(pods, claimed, served, w.exposed(), zones))
	w.Hub.Replace(distribute.LayerProxies, compile.Proxies(w.ready, served))
	w.podsOf = served
	return w.acknowledged()
}

// publishWorkloads publishes what has changed of what is said of pods.
func (w *World) publishWorkloads(workloads []*wire.Resource, sidecars []wire.Resource) {
	next := make(map[wire.Ref]*wire.Resource, len(workloads)+len(sidecars))
	patch := distribute.Patch{Whole: w.workloads == nil}
	for _, r := range workloads {
		next[r.Ref] = r
	}
	for i := range sidecars {
		next[sidecars[i].Ref] = &sidecars[i]
	}
	for ref, r := range next {
		if was := w.workloads[ref]; was != r && (was == nil || was.Version != r.Version || was.Scope != r.Scope) {
			patch.Upserts = append(patch.Upserts, r)
		} else {
			next[ref] = was
		}
	}
	for ref := range w.workloads {
		if _, stays := next[ref]; !stays {
			patch.Removals = append(patch.Removals, ref)
		}
	}
	w.workloads = next
	if patch.Whole || len(patch.Upserts)+len(patch.Removals) > 0 {
		w.Hub.PatchAll(map[distribute.Layer]distribute.Patch{distribute.LayerWorkloads: patch})
	}
}

// place takes where the proxies of pods are to be that do not say.
func (w *World) place(s *compile.Snapshot) {
	placements := make(map[string]meshv1alpha1.Placement, len(s.Namespaces))
	for _, namespace := range s.Namespaces {
		// A label that says nothing known is told by admission and the command line.
		placements[namespace.Name], _ = compile.Placement(nil, namespace.Labels, s.Mesh)
	}
	w.replaced = w.replaced || !maps.Equal(w.placements, placements)
	w.placements = placements
}

// speak takes the pods that have proxies of their own, and publishes endpoints again of which something else is said
// then.
func (w *World) speak(beside map[netip.Addr]types.NamespacedName) {
	if maps.Equal(w.beside, beside) {
		return
	}
	w.beside = beside
	var changed []*wire.Resource
	for ref, r := range w.published {
		if r.Endpoints == nil {
			continue
		}
		if spoken := compile.Speak(r, w.published[backendOf(ref)], beside); spoken.Version != r.Version || spoken.Scope != r.Scope {
			w.published[ref] = spoken
			changed = append(changed, spoken)
		}
	}
	w.Hub.PatchShared(distribute.LayerCompiled, changed, nil)
}

// backendOf is what endpoints are of.
func backendOf(endpoints wire.Ref) wire.Ref {
	return wire.Ref{Kind: wire.KindBackend, Key: endpoints.Key}
}

// sandboxes keeps the nodes that have reported all their pods.
func sandboxes(nodes map[string]distribute.NodeState) compile.Sandboxes {
	out := compile.Sandboxes{}
	for name, node := range nodes {
		if node.Complete {
			out[name] = compile.NodeSandboxes{Pods: slices.Collect(maps.Values(node.Pods)), Current: node.Current}
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
