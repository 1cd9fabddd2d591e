package infra

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	policyv1ac "k8s.io/client-go/applyconfigurations/policy/v1"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

const (
	// TrustBundleName is the ConfigMap that holds the PEM roots of the mesh. Proxies and node agents
	// verify the operator against them.
	TrustBundleName = "weft-ca-bundle"
	// TrustBundleKey is the key in it.
	TrustBundleKey = "ca.crt"

	// IdentityRole is the ClusterRole with the rights to Secrets that the operator has in enrolled
	// namespaces alone. It comes with the installation; a RoleBinding of the same name grants it.
	IdentityRole = "weft-identity"

	// PriorityClass of the proxies comes with the installation: applications wait for proxies.
	PriorityClass = "weft-proxy"

	component = "proxy"
	project   = "weft"
)

// Params are what the objects of a namespace are made from.
type Params struct {
	// Image of the proxy.
	Image string
	// HTTPEngine is the proxy's --http-engine; empty for its default.
	HTTPEngine string
	// Replicas of the proxy, at least 1.
	Replicas int32
	// Resources of the proxy's container; nil for defaults that fit a small namespace.
	Resources *corev1.ResourceRequirements
	// OperatorAddress is the host and port of the configuration stream.
	OperatorAddress string
	// Operator is the ServiceAccount that keeps certificates in the namespace.
	Operator types.NamespacedName
	// TrustBundle holds PEM certificates.
	TrustBundle string
	// WithoutNetworkPolicy leaves out the NetworkPolicy of the proxies.
	WithoutNetworkPolicy bool
	// Replaces is the Template of the proxies that these are to take the place of; empty if there were none.
	Replaces string
	// Owner, if set, is what the objects go with.
	Owner *metav1ac.OwnerReferenceApplyConfiguration
}

// owners is a list of one or none.
func (p Params) owners() []*metav1ac.OwnerReferenceApplyConfiguration {
	if p.Owner == nil {
		return nil
	}
	return []*metav1ac.OwnerReferenceApplyConfiguration{p.Owner}
}

// Objects returns everything an enrolled namespace needs, in the order in which it is to be applied; the proxies
// come last.
// The objects name every field that Weft owns and no other.
func Objects(namespace string, p Params) []runtime.ApplyConfiguration {
	objects := []runtime.ApplyConfiguration{
		identityBinding(namespace, p.Operator).WithOwnerReferences(p.owners()...),
		corev1ac.ServiceAccount(meshv1alpha1.ProxyName, namespace).
			WithOwnerReferences(p.owners()...).
			WithLabels(labels()).
			WithAutomountServiceAccountToken(false),
		TrustBundle(namespace, p.TrustBundle).WithOwnerReferences(p.owners()...),
		policyv1ac.PodDisruptionBudget(meshv1alpha1.ProxyName, namespace).
			WithOwnerReferences(p.owners()...).
			WithLabels(labels()).
			WithSpec(policyv1ac.PodDisruptionBudgetSpec().
				WithMaxUnavailable(intstr.FromInt32(1)).
				// A proxy that cannot become ready must not keep its node from being drained.
				WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
				WithSelector(selector())),
	}
	if !p.WithoutNetworkPolicy {
		objects = append(objects, networkPolicy(namespace).WithOwnerReferences(p.owners()...))
	}
	return append(objects, deployment(namespace, p).WithOwnerReferences(p.owners()...))
}

// TrustBundle returns the ConfigMap with the mesh's roots. The node agents' namespace needs it as well.
func TrustBundle(namespace, bundle string) *corev1ac.ConfigMapApplyConfiguration {
	return corev1ac.ConfigMap(TrustBundleName, namespace).
		WithLabels(labels()).
		WithData(map[string]string{TrustBundleKey: bundle})
}

// identityBinding lets the operator keep certificates in this namespace. Without it the operator can
// neither read nor write a Secret here.
func identityBinding(namespace string, operator types.NamespacedName) *rbacv1ac.RoleBindingApplyConfiguration {
	return rbacv1ac.RoleBinding(IdentityRole, namespace).
		WithLabels(labels()).
		WithRoleRef(rbacv1ac.RoleRef().
			WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(IdentityRole)).
		WithSubjects(rbacv1ac.Subject().
			WithKind(rbacv1.ServiceAccountKind).WithNamespace(operator.Namespace).WithName(operator.Name))
}

// labels are those of every object; the selector's are among them and never change.
func labels() map[string]string {
	all := map[string]string{
		"app.kubernetes.io/managed-by": project,
		"app.kubernetes.io/part-of":    project,
	}
	maps.Copy(all, selectorLabels())
	return all
}

func selectorLabels() map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":    meshv1alpha1.ProxyName,
		meshv1alpha1.ComponentLabel: component,
	}
}

func selector() *metav1ac.LabelSelectorApplyConfiguration {
	return metav1ac.LabelSelector().WithMatchLabels(selectorLabels())
}

// resources returns the container's resources and the memory that the Go runtime is told to stay
// within: nine tenths of the limit, so that the collector works harder before the kernel kills.
func resources(given *corev1.ResourceRequirements) (*corev1ac.ResourceRequirementsApplyConfiguration, string) {
	r := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("100m"),
			corev1.ResourceMemory: resource.MustParse("64Mi"),
		},
		Limits: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("2"),
			corev1.ResourceMemory: resource.MustParse("1Gi"),
		},
	}
	if given != nil {
		r = *given
	}
	out := corev1ac.ResourceRequirements()
	if len(r.Requests) > 0 {
		out.WithRequests(r.Requests)
	}
	if len(r.Limits) > 0 {
		out.WithLimits(r.Limits)
	}
	for _, claim := range r.Claims {
		out.WithClaims(corev1ac.ResourceClaim().WithName(claim.Name).WithRequest(claim.Request))
	}
	memory, limited := r.Limits[corev1.ResourceMemory]
	if !limited {
		return out, ""
	}
	return out, fmt.Sprintf("%dMiB", memory.Value()*9/10/(1<<20))
}
