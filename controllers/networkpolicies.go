package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/preflight"
)

// reasonBlocked is the reason of the condition and of the Events about NetworkPolicies that block meshed traffic.
const reasonBlocked = "BlockedByNetworkPolicy"

// blockEvents bounds the Events about policies that are made at once. The condition counts them all.
const blockEvents = 20

// blocks is what NetworkPolicies block of meshed traffic; the zero value knows nothing of it.
type blocks struct {
	known    bool
	findings []preflight.Finding
	// policies have the policies of the findings, for Events.
	policies map[types.NamespacedName]*networkingv1.NetworkPolicy
}

// findBlocks looks at the policies of the cluster, once it is known which namespaces are enrolled.
func (r *MeshReconciler) findBlocks(ctx context.Context, mesh *meshv1alpha1.Mesh, o *observation) (blocks, error) {
	exposures := r.World.Exposures()
	if o.joined == nil || exposures == nil {
		return blocks{}, nil
	}
	var namespaces corev1.NamespaceList
	if err := r.Client.List(ctx, &namespaces); err != nil {
		return blocks{}, fmt.Errorf("list namespaces: %w", err)
	}
	policies, err := cluster.NetworkPolicies(ctx, r.Client)
	if err != nil {
		return blocks{}, err
	}
	c := preflight.Cluster{
		System: r.World.SystemNamespace, Enrolled: slices.Sorted(maps.Keys(o.joined)),
		Pods: o.pods, Policies: policies, Managed: managesNetworkPolicies(mesh),
	}
	for i := range namespaces.Items {
		c.Namespaces = append(c.Namespaces, &namespaces.Items[i])
	}
	for _, namespace := range c.Enrolled {
		c.Exposures = append(c.Exposures, exposures[namespace]...)
	}
	out := blocks{known: true, findings: preflight.Find(c), policies: map[types.NamespacedName]*networkingv1.NetworkPolicy{}}
	for _, p := range policies {
		out.policies[client.ObjectKeyFromObject(p)] = p
	}
	return out, nil
}

// managesNetworkPolicies tells whether the operator keeps a NetworkPolicy for the proxies.
func managesNetworkPolicies(mesh *meshv1alpha1.Mesh) bool {
	return mesh.Spec.Proxy.NetworkPolicy != meshv1alpha1.NetworkPolicyNone
}

// trafficAdmitted is the condition about them.
func trafficAdmitted(b blocks) metav1.Condition {
	if len(b.findings) == 0 {
		return metav1.Condition{Type: meshv1alpha1.MeshTrafficAdmitted, Status: metav1.ConditionTrue, Reason: "Admitted",
			Message: "no NetworkPolicy blocks meshed traffic of an enrolled namespace"}
	}
	texts := make([]string, len(b.findings))
	for i := range b.findings {
		texts[i] = blockText(&b.findings[i])
	}
	return metav1.Condition{Type: meshv1alpha1.MeshTrafficAdmitted, Status: metav1.ConditionFalse, Reason: reasonBlocked,
		Message: truncate(fmt.Sprintf("%d found, all of which kubectl weft analyze shows (WEFT130): %s", len(texts), strings.Join(texts, "; ")))}
}

func blockText(f *preflight.Finding) string {
	return "NetworkPolicy " + f.Policy.String() + " " + f.String()
}

// blockNotices makes an Event of each finding that is new. It is used by one goroutine.
type blockNotices struct {
	recorder events.EventRecorder
	// told are the findings of before; nil at first.
	told map[string]bool
}

// tell makes the Events. What the leader before has found out is no news: it is in the status of the Mesh.
func (n *blockNotices) tell(mesh *meshv1alpha1.Mesh, b blocks) {
	if !b.known {
		return
	}
	first := n.told == nil
	now := make(map[string]bool, len(b.findings))
	before := meta.FindStatusCondition(mesh.Status.Conditions, meshv1alpha1.MeshTrafficAdmitted)
	known := first && before != nil && before.Message == trafficAdmitted(b).Message
	events := 0
	for i := range b.findings {
		f := &b.findings[i]
		id := f.Policy.String() + " " + string(f.Direction) + " " + string(f.Flow)
		now[id] = true
		if n.told[id] || known || events == blockEvents {
			continue
		}
		events++
		// Of Events that differ in their note alone the API shows the first.
		action := string(f.Direction) + string(f.Flow)
		n.recorder.Eventf(b.policies[f.Policy], mesh, corev1.EventTypeWarning, reasonBlocked, action, "%s", truncate(f.String()))
	}
	n.told = now
}

// watchPolicies wakes the reconciler after what policies block may have changed.
func (r *MeshReconciler) watchPolicies(c cache.Cache) []source.Source {
	return []source.Source{
		later(c, &networkingv1.NetworkPolicy{}, generationChanged[*networkingv1.NetworkPolicy]),
		later(c, &corev1.Namespace{}, labelsChanged[*corev1.Namespace]),
		later(c, &corev1.Pod{}, labelsChanged[*corev1.Pod]),
	}
}

func labelsChanged[T client.Object](before, after T) bool {
	return !maps.Equal(before.GetLabels(), after.GetLabels()) || deletionChanged(before, after)
}

// later leads events of a kind to the Mesh after a while, so that many are one piece of work.
func later[T client.Object](c cache.Cache, kind T, matters func(before, after T) bool) source.Source {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return source.TypedKind(c, kind,
		handler.TypedFuncs[T, reconcile.Request]{
			CreateFunc: func(_ context.Context, _ event.TypedCreateEvent[T], q queue) { q.AddAfter(theMesh, meshInterval) },
			UpdateFunc: func(_ context.Context, _ event.TypedUpdateEvent[T], q queue) { q.AddAfter(theMesh, meshInterval) },
			DeleteFunc: func(_ context.Context, _ event.TypedDeleteEvent[T], q queue) { q.AddAfter(theMesh, meshInterval) },
		},
		predicate.TypedFuncs[T]{UpdateFunc: func(e event.TypedUpdateEvent[T]) bool { return matters(e.ObjectOld, e.ObjectNew) }})
}
