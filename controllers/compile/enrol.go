package compile

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// clusterNamespaces run what a cluster itself needs. A mesh that captured them could lock its own
// control plane out, so a label there is ignored.
var clusterNamespaces = []string{"kube-node-lease", "kube-public", "kube-system"}

// enrolment knows the enrolled namespaces and why another one is not.
type enrolment struct {
	// names are sorted; statuses share the slice as their audience.
	names  []string
	set    map[string]bool
	system string
	// suspended says why every namespace is out; empty if it is not so.
	suspended string
}

func enrol(s Snapshot) enrolment {
	e := enrolment{
		set:       make(map[string]bool),
		system:    s.SystemNamespace,
		suspended: suspended(s),
	}
	if e.suspended != "" {
		return e
	}
	for _, ns := range s.Namespaces {
		if e.labelled(ns) && !e.set[ns.Name] {
			e.set[ns.Name] = true
			e.names = append(e.names, ns.Name)
		}
	}
	slices.Sort(e.names)
	return e
}

// suspended says why no namespace is part of the mesh: without a Mesh, and before Weft goes, every namespace is
// taken out.
func suspended(s Snapshot) string {
	switch {
	case removed(s):
		return "Weft is being removed"
	case s.Mesh != nil && s.Mesh.DeletionTimestamp != nil:
		return "the Mesh is being deleted"
	case s.Deleted:
		return "the Mesh was deleted: create one named " + meshv1alpha1.MeshName
	}
	return ""
}

// removed tells that Weft itself is being removed, with its namespace or with its node agents.
func removed(s Snapshot) bool {
	return s.AgentsRemoved || slices.ContainsFunc(s.Namespaces, func(ns *corev1.Namespace) bool {
		return ns.Name == s.SystemNamespace && ns.DeletionTimestamp != nil
	})
}

func (e enrolment) labelled(ns *corev1.Namespace) bool {
	return ns.Labels[meshv1alpha1.EnabledLabel] == "true" &&
		!e.never(ns.Name) &&
		ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating
}

func (e enrolment) never(namespace string) bool { return NeverEnrolled(namespace, e.system) }

// NeverEnrolled tells that a namespace stays outside whatever its labels say. system is Weft's own.
func NeverEnrolled(namespace, system string) bool {
	return namespace == system || slices.Contains(clusterNamespaces, namespace)
}

func (e enrolment) equal(other enrolment) bool {
	return e.system == other.system && e.suspended == other.suspended && slices.Equal(e.names, other.names)
}

func (e enrolment) has(namespace string) bool { return e.set[namespace] }

// refusal says what a user can do about a namespace that is not enrolled.
func (e enrolment) refusal(namespace string) string {
	switch {
	case e.suspended != "":
		return "Namespace " + namespace + " is not enrolled: " + e.suspended
	case e.never(namespace):
		return "Namespace " + namespace + " can never be enrolled"
	default:
		return "Namespace " + namespace + " is not enrolled: label it with " +
			meshv1alpha1.EnabledLabel + "=" + strconv.Quote("true")
	}
}
