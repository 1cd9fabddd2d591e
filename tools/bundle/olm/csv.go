// Package olm knows what the Operator Lifecycle Manager asks of an operator: it makes a bundle and a catalog
// out of the objects that config/manifests renders (Generate, Catalog), judges a bundle by the rules of OLM, its
// validators and the community's catalogs (Check), and says what OLM would make of one in a cluster (Install).
// Everything is a function from values to values. The types are those of
// github.com/operator-framework/api/pkg/operators/v1alpha1, as far as they are used.
package olm

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CSVKind is the kind of a ClusterServiceVersion.
const CSVKind = "ClusterServiceVersion"

// CSV describes one version of an operator.
type CSV struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Metadata `json:"metadata"`
	Spec            CSVSpec  `json:"spec"`
}

// Metadata is the part of the metadata that is used.
type Metadata struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// CSVSpec is the spec of a CSV.
type CSVSpec struct {
	DisplayName               string              `json:"displayName,omitempty"`
	Description               string              `json:"description,omitempty"`
	Version                   string              `json:"version,omitempty"`
	Replaces                  string              `json:"replaces,omitempty"`
	Maturity                  string              `json:"maturity,omitempty"`
	MinKubeVersion            string              `json:"minKubeVersion,omitempty"`
	Keywords                  []string            `json:"keywords,omitempty"`
	Maintainers               []Maintainer        `json:"maintainers,omitempty"`
	Provider                  Link                `json:"provider,omitzero"`
	Links                     []Link              `json:"links,omitempty"`
	Icon                      []Icon              `json:"icon,omitempty"`
	InstallModes              []InstallMode       `json:"installModes,omitempty"`
	Install                   InstallStrategy     `json:"install"`
	CustomResourceDefinitions OwnedKinds          `json:"customresourcedefinitions"`
	WebhookDefinitions        []WebhookDefinition `json:"webhookdefinitions,omitempty"`
	RelatedImages             []RelatedImage      `json:"relatedImages,omitempty"`
}

// Maintainer is somebody to write to.
type Maintainer struct {
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
}

// Link is a name with an address.
type Link struct {
	Name string `json:"name,omitempty"`
	URL  string `json:"url,omitempty"`
}

// Icon is an image in base64.
type Icon struct {
	Data      string `json:"base64data"`
	MediaType string `json:"mediatype"`
}

// InstallMode says whether the operator can watch a set of namespaces.
type InstallMode struct {
	Type      string `json:"type"`
	Supported bool   `json:"supported"`
}

// InstallStrategy is always of the kind "deployment".
type InstallStrategy struct {
	Strategy string      `json:"strategy,omitempty"`
	Spec     InstallSpec `json:"spec,omitzero"`
}

// InstallSpec is what runs, with which rights.
type InstallSpec struct {
	ClusterPermissions []Permissions    `json:"clusterPermissions,omitempty"`
	Permissions        []Permissions    `json:"permissions,omitempty"`
	Deployments        []DeploymentSpec `json:"deployments,omitempty"`
}

// Permissions are the rules of one ServiceAccount, which OLM makes.
type Permissions struct {
	ServiceAccountName string              `json:"serviceAccountName"`
	Rules              []rbacv1.PolicyRule `json:"rules"`
}

// DeploymentSpec is a Deployment that OLM makes.
type DeploymentSpec struct {
	Name  string                `json:"name"`
	Label map[string]string     `json:"label,omitempty"`
	Spec  appsv1.DeploymentSpec `json:"spec"`
}

// OwnedKinds are the kinds that the operator provides.
type OwnedKinds struct {
	Owned []OwnedKind `json:"owned,omitempty"`
}

// OwnedKind describes a kind to people.
type OwnedKind struct {
	// Name is the CRD's, plural.group.
	Name        string     `json:"name"`
	Version     string     `json:"version"`
	Kind        string     `json:"kind"`
	DisplayName string     `json:"displayName,omitempty"`
	Description string     `json:"description,omitempty"`
	Resources   []Resource `json:"resources,omitempty"`
	// SpecDescriptors and StatusDescriptors describe fields.
	SpecDescriptors   []Descriptor `json:"specDescriptors,omitempty"`
	StatusDescriptors []Descriptor `json:"statusDescriptors,omitempty"`
}

// Resource is a kind that objects of an owned kind bring about.
type Resource struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Descriptor describes one field. Path has [0] for the elements of a list.
type Descriptor struct {
	Path         string   `json:"path"`
	DisplayName  string   `json:"displayName,omitempty"`
	Description  string   `json:"description,omitempty"`
	XDescriptors []string `json:"x-descriptors,omitempty"`
}

// WebhookDefinition is one webhook. Other than in Kubernetes there are no selectors of namespaces and no
// conditions.
type WebhookDefinition struct {
	Type                    string                                       `json:"type"`
	GenerateName            string                                       `json:"generateName"`
	DeploymentName          string                                       `json:"deploymentName"`
	ContainerPort           int32                                        `json:"containerPort,omitempty"`
	TargetPort              int32                                        `json:"targetPort,omitempty"`
	WebhookPath             string                                       `json:"webhookPath,omitempty"`
	Rules                   []admissionregistrationv1.RuleWithOperations `json:"rules,omitempty"`
	AdmissionReviewVersions []string                                     `json:"admissionReviewVersions"`
	FailurePolicy           *admissionregistrationv1.FailurePolicyType   `json:"failurePolicy,omitempty"`
	MatchPolicy             *admissionregistrationv1.MatchPolicyType     `json:"matchPolicy,omitempty"`
	SideEffects             *admissionregistrationv1.SideEffectClass     `json:"sideEffects"`
	TimeoutSeconds          *int32                                       `json:"timeoutSeconds,omitempty"`
}

// RelatedImage is an image that the operator runs or deploys: what a mirror has to hold.
type RelatedImage struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}
