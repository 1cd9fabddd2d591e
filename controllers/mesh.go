package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
)

// meshInterval is the least time between two writes of the Mesh's status: pods and agents come and go
// much faster than anybody reads it.
const meshInterval = 2 * time.Second

// MeshReconciler creates the Mesh named default when there has never been one and keeps its status. It never
// changes a spec.
type MeshReconciler struct {
	Client client.Client
	Hub    *distribute.Hub
	World  *World
	// keeper, rotation and members know the state of the certificates.
	keeper   *identity.Keeper
	rotation *Rotation
	members  *Members
	plain    *plainCounter
	// blockNotices, plainNotices and placementNotices tell users what is new of what the status shows.
	blockNotices     blockNotices
	plainNotices     plainNotices
	placementNotices placementNotices
	// installation knows what is installed.
	installation *installation

	started, lastWrite time.Time
}

// plainInterval is the least time between two writes of the Mesh's status that differ only in how often callers
// came past the mesh; plainExpiry is how often those that came long ago are looked for.
const (
	plainInterval = 10 * time.Second
	plainExpiry   = time.Minute
)

// theMesh is the one request there is.
var theMesh = reconcile.Request{NamespacedName: types.NamespacedName{Name: meshv1alpha1.MeshName}}

// watchHub wakes the reconciler when node agents come, go or report, namespaces come or go, and something
// happens to certificates.
func (r *MeshReconciler) watchHub(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() {
		for {
			clients, members := r.Hub.Changed(), r.World.Membership()
			authority, waiting, issued := r.keeper.Changed(), r.rotation.Changed(), r.members.changed()
			definitions := r.installation.Changed()
			queue.AddAfter(theMesh, meshInterval)
			select {
			case <-ctx.Done():
				return
			case <-clients:
			case <-members:
			case <-authority:
			case <-waiting:
			case <-issued:
			case <-definitions:
			}
		}
	}()
	return nil
}

// watchNodes wakes the reconciler when nodes come and go: one without an agent is not proven.
func (r *MeshReconciler) watchNodes(c cache.Cache) source.Source {
	return source.TypedKind(c, &corev1.Node{},
		handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *corev1.Node) []reconcile.Request {
			return []reconcile.Request{theMesh}
		}),
		predicate.TypedFuncs[*corev1.Node]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Node]) bool {
			return nodeChanged(e.ObjectOld, e.ObjectNew)
		}})
}

// Reconcile looks at the whole mesh, whatever the request says.
func (r *MeshReconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	if r.started.IsZero() {
		r.started = time.Now()
	}
	mesh, err := cluster.Mesh(ctx, r.Client)
	if err != nil {
		return reconcile.Result{}, err
	}
	if mesh == nil {
		deleted, err := r.World.Mark.known(ctx)
		if err != nil || deleted {
			return reconcile.Result{}, err
		}
		mesh = &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
		if err := r.Client.Create(ctx, mesh); err != nil && !apierrors.IsAlreadyExists(err) {
			return reconcile.Result{}, fmt.Errorf("create mesh: %w", err)
		}
		return reconcile.Result{}, nil
	}
	if err := r.World.Mark.remember(ctx); err != nil {
		return reconcile.Result{}, err
	}
	grace := r.World.ConnectGrace - time.Since(r.started)
	o := observation{
		enrolled: r.World.served(), joined: r.World.memberships(), reports: r.Hub.Nodes(), installed: r.installation.now(), fresh: grace > 0,
		roll: r.members.rolled(), unfit: r.World.Unfit(),
		certificates: certificateState{
			authority: r.keeper.Authority(), fault: r.keeper.Fault(), waiting: r.rotation.Waiting(), found: r.rotation.Found(),
			request: mesh.Annotations[meshv1alpha1.RotateRootAnnotation],
			failure: r.members.issued().failure, lifetime: lifetime(mesh.Spec.Certificates.Lifetime), now: time.Now(),
		},
	}
	if o.nodes, err = cluster.Nodes(ctx, r.Client); err != nil {
		return reconcile.Result{}, err
	}
	if o.pods, err = cluster.Pods(ctx, r.Client); err != nil {
		return reconcile.Result{}, err
	}
	o.calls = lately(r.plain.take(o.reports, o.pods, r.World.Exposures()), time.Now())
	r.World.SetPlain(o.calls)
	if !o.fresh { // agents may have more to tell
		r.plainNotices.tell(mesh, o.calls, time.Now(), r.service(ctx))
	}
	if o.strict = r.World.StrictPorts(); len(o.strict) > 0 {
		o.enforcement = r.World.Enforcement(o.strict)
	}
	if o.blocks, err = r.findBlocks(ctx, mesh, &o); err != nil {
		return reconcile.Result{}, err
	}
	r.blockNotices.tell(mesh, o.blocks)
	settings, err := cluster.Settings(ctx, r.Client)
	if err != nil {
		return reconcile.Result{}, err
	}
	o.misplaced = misplaced(settings, o.pods, o.enrolled)
	r.placementNotices.tell(mesh, append(unled(o), o.misplaced...))
	again := max(grace, 0)
	if len(o.calls) > 0 && again == 0 {
		again = plainExpiry
	}
	status := meshStatus(mesh, o)
	if equality.Semantic.DeepEqual(status, mesh.Status) {
		return reconcile.Result{RequeueAfter: again}, nil
	}
	interval := meshInterval
	if equality.Semantic.DeepEqual(withoutPlainCounts(&status), withoutPlainCounts(&mesh.Status)) {
		interval = plainInterval
	}
	if wait := interval - time.Since(r.lastWrite); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	mesh = mesh.DeepCopy()
	mesh.Status = status
	r.lastWrite = time.Now()
	if err := r.Client.Status().Update(ctx, mesh); err != nil {
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
		}
		if apierrors.IsNotFound(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("update mesh status: %w", err)
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// service returns a function that refers to a Service, by its UID as well if it exists.
func (r *MeshReconciler) service(ctx context.Context) func(types.NamespacedName) *corev1.ObjectReference {
	return func(name types.NamespacedName) *corev1.ObjectReference {
		reference := &corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name}
		service := &corev1.Service{}
		if r.Client.Get(ctx, name, service) == nil {
			reference.UID = service.UID
		}
		return reference
	}
}
