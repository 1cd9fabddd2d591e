// Package v1alpha1 holds Weft's own API kinds: what the Gateway API does not have. It owns their
// types, markers and pure validation, and must not import anything of Weft.
// +kubebuilder:object:generate=true
// +groupName=mesh.weft.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of Weft's kinds.
const GroupName = "mesh.weft.dev"

var (
	// GroupVersion is the group and version of this package.
	GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

	// SchemeBuilder collects the kinds of this package.
	SchemeBuilder = runtime.NewSchemeBuilder(addKinds)

	// AddToScheme adds the kinds of this package to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKinds(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &Mesh{}, &MeshList{}, &MeshPolicy{}, &MeshPolicyList{},
		&MeshAuthorization{}, &MeshAuthorizationList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

const (
	// ControllerName marks Weft's entries in the status of routes.
	ControllerName = "mesh.weft.dev/controller"

	// EnabledLabel enrols a Namespace when "true"; on a Pod or Service of an enrolled namespace the
	// value "false" keeps that object out of the mesh.
	EnabledLabel = "mesh.weft.dev/enabled"

	// PlacementLabel on a namespace says where the proxy of its pods is: PlacementNamespace or PlacementSidecar. On a pod
	// it goes before its namespace's.
	PlacementLabel = "mesh.weft.dev/placement"
	// SidecarLabel is on pods that were given a proxy of their own. It is Weft's: with it and without a proxy a pod
	// reaches nobody.
	SidecarLabel = "mesh.weft.dev/sidecar"
	// ComponentLabel names what an object of ours is: operator, proxy, node or identity.
	ComponentLabel = "mesh.weft.dev/component"

	// RotateRootAnnotation on the Mesh asks for an exchange of the mesh's root: each new value begins one.
	RotateRootAnnotation = "mesh.weft.dev/rotate-root"

	// ProxyName is the name of the Deployment and the ServiceAccount of the proxies in every enrolled
	// namespace.
	ProxyName = "weft-proxy"
)
