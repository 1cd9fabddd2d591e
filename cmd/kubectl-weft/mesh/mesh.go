// Package mesh reads a mesh into one value, from a cluster or from files, and compiles it as the operator
// does, so that whatever is asked of it is answered alike for both. It only reads; it judges nothing and
// prints nothing.
package mesh

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/controllers/compile"
)

// Mesh is everything that people have declared, and what the operator makes of it.
type Mesh struct {
	// Snapshot is what Compiled was made from. Nobody may change it.
	Snapshot compile.Snapshot
	Compiled compile.Result
	// Pods, Nodes and NetworkPolicies are not compiled, but say who can reach whom.
	Pods            []*corev1.Pod
	Nodes           []*corev1.Node
	NetworkPolicies []*networkingv1.NetworkPolicy
	// Network is what is known of the network that pods are on.
	Network Network
	// Live tells that all of it was read from a cluster.
	Live bool
	// Assumed are namespaces that are taken as enrolled because no file declares them.
	Assumed []string
	// Ignored are objects of files that mean nothing to a mesh.
	Ignored []Object

	positions map[Object]Position
}

// Network is what is known of a cluster's network plugin.
type Network struct {
	// Plugin is its name, empty if it is not known.
	Plugin string
	// Encrypts tells that it encrypts between nodes.
	Encrypts bool
	// SocketLB tells that it chooses endpoints of Services at the sockets of pods.
	SocketLB bool
}

// Object names an API object. Namespace is empty for those that have none.
type Object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String returns "Kind namespace/name".
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Position is a place in a file; lines and columns count from 1. The zero value is nowhere.
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String returns "file:line:column".
func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// At returns where an object was read, the zero Position if it comes from a cluster.
func (m *Mesh) At(o Object) Position { return m.positions[o] }

// Pod returns the pod of that name, or nil.
func (m *Mesh) Pod(name types.NamespacedName) *corev1.Pod {
	for _, p := range m.Pods {
		if p.Namespace == name.Namespace && p.Name == name.Name {
			return p
		}
	}
	return nil
}

// Service returns the Service of that name, or nil.
func (m *Mesh) Service(name types.NamespacedName) *corev1.Service {
	for _, s := range m.Snapshot.Services {
		if s.Namespace == name.Namespace && s.Name == name.Name {
			return s
		}
	}
	return nil
}

// Enrolled tells whether a namespace is part of the mesh.
func (m *Mesh) Enrolled(namespace string) bool {
	for _, name := range m.Compiled.Enrolled {
		if name == namespace {
			return true
		}
	}
	return false
}

// compile fills in what the operator makes of the snapshot.
func (m *Mesh) compile() {
	if len(m.Pods) > 0 {
		m.Snapshot.ServiceAccounts = compile.ServiceAccounts(m.Pods)
	}
	m.Compiled = compile.Compile(m.Snapshot)
}
