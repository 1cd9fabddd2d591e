package controllers

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/distribute"
)

// meshInterval is the least time between two writes of the Mesh's status: pods and agents come and go
// much faster than anybody reads it.
const meshInterval = 2 * time.Second

// MeshReconciler creates the Mesh named default when there is none and keeps its status. It never
// changes a spec.
type MeshReconciler struct {
	Client client.Client
	Hub    *distribute.Hub
	World  *World
	// gatewayAPI is what was found installed when the operator started.
	gatewayAPI gatewayAPI

	lastWrite time.Time
}

// watchHub wakes the reconciler when node agents come, go or report.
func (r *MeshReconciler) watchHub(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	request := reconcile.Request{NamespacedName: types.NamespacedName{Name: meshv1alpha1.MeshName}}
	go func() {
		for {
			changed := r.Hub.Changed()
			queue.AddAfter(request, meshInterval)
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return nil
}

// Reconcile looks at the whole mesh, whatever the request says.
func (r *MeshReconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	mesh, err := cluster.Mesh(ctx, r.Client)
	if err != nil {
		return reconcile.Result{}, err
	}
	if mesh == nil {
		mesh = &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
		if err := r.Client.Create(ctx, mesh); err != nil && !apierrors.IsAlreadyExists(err) {
			return reconcile.Result{}, fmt.Errorf("create mesh: %w", err)
		}
		return reconcile.Result{}, nil
	}
	o := observation{enrolled: r.World.served(), reports: r.Hub.Nodes(), gatewayAPI: r.gatewayAPI}
	if o.nodes, err = cluster.Nodes(ctx, r.Client); err != nil {
		return reconcile.Result{}, err
	}
	if o.pods, err = cluster.Pods(ctx, r.Client); err != nil {
		return reconcile.Result{}, err
	}
	status := meshStatus(mesh, o)
	if equality.Semantic.DeepEqual(status, mesh.Status) {
		return reconcile.Result{}, nil
	}
	if wait := meshInterval - time.Since(r.lastWrite); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	mesh = mesh.DeepCopy()
	mesh.Status = status
	r.lastWrite = time.Now()
	if err := r.Client.Status().Update(ctx, mesh); err != nil {
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
		}
		return reconcile.Result{}, fmt.Errorf("update mesh status: %w", client.IgnoreNotFound(err))
	}
	return reconcile.Result{}, nil
}
