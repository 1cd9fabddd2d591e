package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// MeshPolicySpec is traffic behaviour and what it is for.
// +kubebuilder:validation:XValidation:rule="!has(self.targetRefs) || self.targetRefs.all(t, t.kind == 'Service') || !(has(self.loadBalancing) || has(self.outlierEjection) || has(self.healthCheck) || has(self.circuitBreaking) || has(self.mtls) || (has(self.timeouts) && has(self.timeouts.connect)))",message="loadBalancing, outlierEjection, healthCheck, circuitBreaking, mtls and timeouts.connect belong to a Service, since all routes share its instances: target a Service or the namespace"
type MeshPolicySpec struct {
	// targetRefs are what the policy is for, in its own namespace: a Service (sectionName is the name of a
	// port), an HTTPRoute or a GRPCRoute (sectionName is the name of a rule). Without any it is for the whole
	// namespace.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(t, (t.kind == 'Service' && (t.group == '' || t.group == 'core')) || ((t.kind == 'HTTPRoute' || t.kind == 'GRPCRoute') && t.group == 'gateway.networking.k8s.io'))",message="a target must be a Service, an HTTPRoute or a GRPCRoute, with its group"
	// +kubebuilder:validation:XValidation:rule="self.all(t, self.exists_one(u, u.kind == t.kind && u.name == t.name && (has(u.sectionName) ? u.sectionName : '') == (has(t.sectionName) ? t.sectionName : '')))",message="a target must be named once"
	TargetRefs []gwv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs,omitempty"`

	TrafficPolicy `json:",inline"`
}

// Condition types and reasons of a MeshPolicy beyond those of GEP-713.
const (
	// PolicyAccepted is True when the policy is in force for every target.
	PolicyAccepted = "Accepted"
	// PolicyProgrammed is True when every ready proxy concerned has acknowledged the policy.
	PolicyProgrammed = "Programmed"
	// PolicyEnforced is on policies that make ports strict. It is True while node agents have proven that nobody
	// else gets in.
	PolicyEnforced = "Enforced"
	// PolicyReady is True when the policy is accepted and programmed for every target. It is for tools that know
	// nothing of GEP-713, as are ConditionStalled and ConditionReconciling.
	PolicyReady = "Ready"
)

// Condition types of all kinds that tools know which wait by kstatus. Each is there while it is True and absent
// otherwise.
const (
	// ConditionStalled is True when something that is asked for cannot be in force until somebody edits an object.
	ConditionStalled = "Stalled"
	// ConditionReconciling is True while what is asked for is not in force and may come to be without an edit.
	ConditionReconciling = "Reconciling"
)

// MeshPolicyStatus is what the operator has decided and observed.
type MeshPolicyStatus struct {
	// conditions are Accepted, Programmed and Ready over all targets, Enforced of a policy with mtls.mode Strict, and
	// Stalled or Reconciling while it is not Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the object that the status is about. It is -1 until the operator has
	// looked at the object.
	// +optional
	// +kubebuilder:validation:Minimum=-1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"` //nolint:kubeapilinter // as everywhere in Kubernetes: zero is never a generation

	// target names the targets for people.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Target string `json:"target,omitempty"`

	// ancestors has the conditions of each target.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Ancestors []gwv1.PolicyAncestorStatus `json:"ancestors,omitempty"`

	// effective shows the policy that results for each target, with the origin of every field.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Effective []EffectivePolicy `json:"effective,omitempty"`

	// inForce is the policy if it is valid, and otherwise the last one that was: that stays in force for the
	// targets of now.
	// +optional
	InForce *TrafficPolicy `json:"inForce,omitempty"`
}

// EffectivePolicy is what results for one target from all levels.
type EffectivePolicy struct {
	// target is the object, and its section if there is one.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Target string `json:"target,omitempty"`

	// fields that somebody has set; all others have their default.
	// +optional
	// +listType=map
	// +listMapKey=field
	// +kubebuilder:validation:MaxItems=128
	Fields []EffectiveField `json:"fields,omitempty"`
}

// EffectiveField is one field of an effective policy.
type EffectiveField struct {
	// field is its path.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Field string `json:"field,omitempty"`

	// value in force.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`

	// from is the object that says so.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	From string `json:"from,omitempty"`
}

// MeshPolicy says how the requests to its targets are treated.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=mpol,categories=gateway-api
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.target`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MeshPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is the policy.
	// +optional
	Spec MeshPolicySpec `json:"spec,omitempty,omitzero"` //nolint:kubeapilinter // every object of the API has a spec by value

	// status is what the operator has decided and observed.
	// +optional
	// +default={"observedGeneration":-1}
	Status MeshPolicyStatus `json:"status,omitempty,omitzero"`
}

// MeshPolicyList is a list of MeshPolicy.
// +kubebuilder:object:root=true
type MeshPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MeshPolicy `json:"items"`
}
