package controllers

import (
	"context"
	"fmt"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// markName is the ConfigMap that tells that there has been a Mesh.
const markName = "weft-mesh"

// meshMark remembers that there has been a Mesh: then one that is missing was deleted, and is not made again.
// Safe for concurrent use.
type meshMark struct {
	// client writes, reader reads from the API server itself.
	client    client.Client
	reader    client.Reader
	namespace string

	mu   sync.Mutex
	made bool
}

// known tells whether there has been a Mesh.
func (m *meshMark) known(ctx context.Context) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made {
		return true, nil
	}
	err := m.reader.Get(ctx, types.NamespacedName{Namespace: m.namespace, Name: markName}, &corev1.ConfigMap{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("look whether there was a mesh: %w", err)
	}
	m.made = true
	return true, nil
}

// remember notes that there is one.
func (m *meshMark) remember(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made {
		return nil
	}
	mark := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: m.namespace, Name: markName},
		Data:       map[string]string{"note": "There has been a Mesh. While there is none, it was deleted, and the operator makes no other."},
	}
	if err := m.client.Create(ctx, mark); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("remember that there is a mesh: %w", err)
	}
	m.made = true
	return nil
}

// removal is what the World knows of the end of the mesh.
type removal struct {
	// Mark remembers that there has been a Mesh.
	Mark *meshMark
	// agentsRemoved tells that the node agents are being removed for good, agentsChanged that this is news.
	agentsRemoved, agentsChanged bool
}

// tell completes a snapshot.
func (r *removal) tell(ctx context.Context, s *compile.Snapshot) (err error) {
	s.AgentsRemoved = r.agentsRemoved
	if s.Mesh == nil {
		s.Deleted, err = r.Mark.known(ctx)
	}
	return err
}

// lookAtAgents finds out, while an agent's pod is ending, whether all of them are: whether their DaemonSet is
// gone or going. In doubt they are not: an agent that takes its rules away opens strict ports. It reports
// whether the answer is another than before.
func (w *World) lookAtAgents(ctx context.Context, pods []*corev1.Pod) bool {
	ending := slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
		return p.Namespace == w.SystemNamespace && p.Labels[meshv1alpha1.ComponentLabel] == componentNode && p.DeletionTimestamp != nil
	})
	if !ending && !w.agentsRemoved {
		return false
	}
	agents := &appsv1.DaemonSet{}
	err := w.Direct.Get(ctx, types.NamespacedName{Namespace: w.SystemNamespace, Name: nodeName}, agents)
	if client.IgnoreNotFound(err) != nil {
		w.Log.Error(err, "look whether the node agents are being removed")
		return false
	}
	removed := err != nil || agents.DeletionTimestamp != nil
	if removed == w.agentsRemoved {
		return false
	}
	w.agentsRemoved = removed
	w.Log.Info("the DaemonSet of the node agents has changed", "removed", removed)
	return true
}

// definition returns the owner of everything that the operator makes in enrolled namespaces: the definition of
// the kind Mesh. Whoever removes that removes the mesh, and the garbage collector finishes what the operator may
// not be there to do any more. Deleting the Mesh alone is no such end: the operator takes namespaces out first.
type definition struct {
	reader client.Reader

	mesh  types.UID
	owner *metav1ac.OwnerReferenceApplyConfiguration
}

// of returns the owner as of a Mesh; without one, the last that is known.
func (d *definition) of(ctx context.Context, mesh *meshv1alpha1.Mesh) (*metav1ac.OwnerReferenceApplyConfiguration, error) {
	if d.owner != nil && (mesh == nil || mesh.UID == d.mesh) {
		return d.owner, nil
	}
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(definitionKind)
	name := "meshes." + meshv1alpha1.GroupVersion.Group
	if err := d.reader.Get(ctx, types.NamespacedName{Name: name}, crd); err != nil {
		if apierrors.IsNotFound(err) {
			return d.owner, nil
		}
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	d.owner = metav1ac.OwnerReference().WithAPIVersion(definitionKind.GroupVersion().String()).WithKind(definitionKind.Kind).
		WithName(name).WithUID(crd.UID)
	if mesh != nil {
		d.mesh = mesh.UID
	}
	return d.owner, nil
}
