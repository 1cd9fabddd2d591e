package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// MeshAuthorizationSpec says who may call what.
// +kubebuilder:validation:XValidation:rule="self.action != 'Deny' || has(self.rules)",message="a Deny policy without rules denies nothing: add a rule, which may be {} for everything"
type MeshAuthorizationSpec struct {
	// targetRefs are what the policy is for, in its own namespace. Without any it is for every Service of the
	// namespace.
	//
	// A Service, of which sectionName names one port: the policy holds for the pods that requests to it reach, its
	// own, and those of the Services in its namespace that producer routes send or mirror such requests to.
	//
	// An HTTPRoute or GRPCRoute, of which sectionName names rules: it holds for the pods of the Services of the
	// namespace that the route sends or mirrors requests to, and for the requests that the matches of its rules
	// accept, whichever way they come. They are matched once more where the pod is picked, so rules that change
	// what their matches look at, and matches with regular expressions or query parameters, cannot be protected so.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.kind == 'Service' && (t.group == '' || t.group == 'core') || t.kind in ['HTTPRoute', 'GRPCRoute'] && t.group == 'gateway.networking.k8s.io')",message="a target must be a Service, with the group \"\", or an HTTPRoute or GRPCRoute"
	// +kubebuilder:validation:XValidation:rule="self.all(t, self.exists_one(u, u.kind == t.kind && u.name == t.name && (has(u.sectionName) ? u.sectionName : '') == (has(t.sectionName) ? t.sectionName : '')))",message="a target must be named once"
	TargetRefs []gwv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs,omitempty"`

	// action is what a rule that matches does. All policies count that are for the namespace, the Service or the
	// port. If a rule of a Deny policy matches, the request is denied. Otherwise, if there are Allow policies, one
	// rule of any of them must match; an Allow policy without rules allows nothing by itself. What no policy is
	// for is allowed.
	// +required
	Action AuthorizationAction `json:"action,omitempty"`

	// mode Audit only counts and logs what would be denied if the policy were enforced.
	// +optional
	// +default="Enforce"
	Mode AuthorizationMode `json:"mode,omitempty"`

	// jwt says which JSON Web Tokens are believed. Rules match them with from.jwt and conditions.
	// +optional
	JWT *AuthorizationJWT `json:"jwt,omitempty"` //nolint:kubeapilinter // nil is none

	// rules match if one of them does. A rule without from, to and conditions matches everything.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Rules []AuthorizationRule `json:"rules,omitempty"` //nolint:kubeapilinter // {} is a rule, and matches everything
}

// AuthorizationAction is what a rule that matches does.
// +kubebuilder:validation:Enum=Allow;Deny
type AuthorizationAction string

// The actions.
const (
	AuthorizationAllow AuthorizationAction = "Allow"
	AuthorizationDeny  AuthorizationAction = "Deny"
)

// AuthorizationMode says whether a policy is enforced.
// +kubebuilder:validation:Enum=Enforce;Audit
type AuthorizationMode string

// The modes.
const (
	AuthorizationEnforce AuthorizationMode = "Enforce"
	AuthorizationAudit   AuthorizationMode = "Audit"
)

// AuthorizationRule matches if one of from and one of to do, and all conditions; without any of one of them it does
// not matter.
type AuthorizationRule struct {
	// from are callers.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	From []AuthorizationSource `json:"from,omitempty"` //nolint:kubeapilinter // it has at least one property

	// to are what they call.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	To []AuthorizationOperation `json:"to,omitempty"` //nolint:kubeapilinter // it has at least one property

	// conditions are expressions in the Common Expression Language (CEL) that must be true, over request.method,
	// request.host, request.url_path, request.query, request.headers, request.auth.claims, source.principal,
	// source.trust_domain, source.namespace, source.service_account, source.address, destination.service,
	// destination.namespace and destination.port. Where evaluation fails, as for a header that is not there, an
	// Allow rule does not match and a Deny rule does.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Conditions []AuthorizationCondition `json:"conditions,omitempty"` //nolint:kubeapilinter // they are no conditions of a status
}

// AuthorizationCondition is an expression in CEL that is true or false. What it may cost is limited.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=2048
type AuthorizationCondition string

// AuthorizationSource matches if every field that is set has a value that does.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.unauthenticated) || !(has(self.serviceAccounts) || has(self.namespaces) || has(self.spiffe) || has(self.jwt))",message="unauthenticated callers have no identity and no token: unauthenticated goes with ipBlocks alone"
type AuthorizationSource struct {
	// serviceAccounts are identities, which callers have proven. They need not exist.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ServiceAccounts []ServiceAccountReference `json:"serviceAccounts,omitempty"`

	// namespaces are those of the callers' identities.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Namespaces []gwv1.Namespace `json:"namespaces,omitempty"`

	// spiffe are patterns of SPIFFE IDs, spiffe://<trust domain>/ns/<namespace>/sa/<service account>, in which
	// each of the three parts may be "*".
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	SPIFFE []SPIFFEPattern `json:"spiffe,omitempty"`

	// ipBlocks hold the addresses of callers' pods. Of a caller in another namespace it is what the proxies of
	// that namespace say; where that matters, name identities as well.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	IPBlocks []IPBlock `json:"ipBlocks,omitempty"`

	// unauthenticated true are callers that the mesh has not identified, such as scrapers or the API server. They
	// come past the proxies, so that an Allow rule for them can ask for ipBlocks and ports, and for nothing that
	// is in a request.
	// +optional
	// +kubebuilder:validation:Enum=true
	Unauthenticated *bool `json:"unauthenticated,omitempty"`

	// jwt is a token that spec.jwt verifies. {} is any.
	// +optional
	JWT *JWTMatch `json:"jwt,omitempty"`
}

// ServiceAccountReference names a ServiceAccount of any namespace.
type ServiceAccountReference struct {
	// namespace of the ServiceAccount.
	// +required
	Namespace gwv1.Namespace `json:"namespace,omitempty"` //nolint:kubeapilinter // the type has a least length

	// name of the ServiceAccount.
	// +required
	Name gwv1.ObjectName `json:"name,omitempty"` //nolint:kubeapilinter // the type has a least length
}

// SPIFFEPattern is a SPIFFE ID of which any part may be "*".
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=640
// +kubebuilder:validation:Pattern=`^spiffe://([*]|[a-z0-9._-]+)/ns/([*]|[a-z0-9-]+)/sa/([*]|[a-z0-9.-]+)$`
type SPIFFEPattern string

// IPBlock is a network without parts of it.
type IPBlock struct {
	// cidr is the network, such as 10.1.0.0/16.
	// +required
	CIDR CIDR `json:"cidr,omitempty"`

	// except are parts of it that do not belong to the block.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Except []CIDR `json:"except,omitempty"`
}

// CIDR is a network in CIDR notation.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="must be a network in CIDR notation, such as 10.1.0.0/16 or fd00::/8"
type CIDR string

// AuthorizationOperation matches if every field that is set has a value that does; of headers all must.
//
// Where a request can be understood in several ways, an Allow rule matches only if it does for all of them, a Deny
// rule if it does for one: the ways in which applications read a path (docs/security.md), the values of a header
// that comes several times, and connections of opaque bytes. Of those, TCP ports and WebSockets from other
// namespaces, only ports are known, so that Allow rules with other fields never match them and Deny rules with
// other fields always do.
// +kubebuilder:validation:MinProperties=1
type AuthorizationOperation struct {
	// ports are those of the Service.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []AuthorizationPort `json:"ports,omitempty"`

	// methods of HTTP.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Methods []AuthorizationMethod `json:"methods,omitempty"`

	// paths without the query, as the application gets them: after the filters of routes.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Paths []AuthorizationPath `json:"paths,omitempty"`

	// grpc are methods of gRPC, which are paths of two segments.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	GRPC []AuthorizationGRPCMethod `json:"grpc,omitempty"` //nolint:kubeapilinter // it has at least one property

	// headers that a request must have, all of them, as the application gets them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Headers []AuthorizationHeader `json:"headers,omitempty"`
}

// AuthorizationPort is a port of a Service.
// +kubebuilder:validation:Minimum=1
// +kubebuilder:validation:Maximum=65535
type AuthorizationPort int32

// AuthorizationMethod is a method of HTTP, which is case-sensitive.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_|~]+$`
type AuthorizationMethod string

// AuthorizationPathType says how a path is compared. Prefix compares segments. In a Template {*} stands for one
// segment that is not empty, and {**}, at the end, for any number of segments.
// +kubebuilder:validation:Enum=Exact;Prefix;Template
type AuthorizationPathType string

// AuthorizationPath is compared with a path. There are no expressions.
// +kubebuilder:validation:XValidation:rule="self.type != 'Template' || self.value.matches('^(/([^/{}%;]+|[{][*][}]))*(/[{][*][*][}])?$')",message="a Template has segments that are plain text or {*}, and perhaps {**} at the end"
type AuthorizationPath struct {
	// type says how it is compared.
	// +required
	Type AuthorizationPathType `json:"type,omitempty"`

	// value to compare with.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^/[^?#\s]*$`
	Value string `json:"value,omitempty"`
}

// AuthorizationGRPCMethod is compared with the path of a gRPC call.
// +kubebuilder:validation:MinProperties=1
type AuthorizationGRPCMethod struct {
	// service is the full name, such as orders.v1.Orders. Without it any matches.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.\-]*[A-Za-z0-9_\-]$`
	Service string `json:"service,omitempty"`

	// method of the service. Without it any matches.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.\-]*[A-Za-z0-9_\-]$`
	Method string `json:"method,omitempty"`
}

// AuthorizationHeaderType says how the values of a header are compared.
// +kubebuilder:validation:Enum=Exact;Prefix;Present
type AuthorizationHeaderType string

// AuthorizationHeader is compared with all values of a header: an Allow rule needs all of them to match and takes
// a list in one line for one value; a Deny rule needs one to match, or one member of a list, and takes a header
// with underscores for the one with dashes.
// +kubebuilder:validation:XValidation:rule="self.type == 'Present' ? !has(self.value) : has(self.value)",message="value is for Exact and Prefix, which need it"
type AuthorizationHeader struct {
	// name of the header, in any case. Host is the authority.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_|~]+$`
	Name string `json:"name,omitempty"`

	// type says how values are compared.
	// +required
	Type AuthorizationHeaderType `json:"type,omitempty"`

	// value to compare with, case-sensitive.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
}

// AuthorizationKeysAvailable is the condition of a MeshAuthorization with spec.jwt that says whether the keys of all
// issuers are at hand and up to date.
const AuthorizationKeysAvailable = "KeysAvailable"

// AuthorizationEnforced is the condition of a MeshAuthorization that says whether it can be passed by. Accepted and
// Programmed are those of a MeshPolicy.
const AuthorizationEnforced = "Enforced"

// MeshAuthorizationStatus is what the operator has decided and observed.
type MeshAuthorizationStatus struct {
	// conditions are Accepted, Programmed, Ready and Enforced over all targets, KeysAvailable where there is a jwt, and
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
}

// MeshAuthorization says who may call the Services of its namespace.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=mauthz,categories=gateway-api
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.target`
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Enforced",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Enforced")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MeshAuthorization struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is the policy.
	// +required
	Spec MeshAuthorizationSpec `json:"spec,omitempty,omitzero"`

	// status is what the operator has decided and observed.
	// +optional
	// +default={"observedGeneration":-1}
	Status MeshAuthorizationStatus `json:"status,omitempty,omitzero"`
}

// MeshAuthorizationList is a list of MeshAuthorization.
// +kubebuilder:object:root=true
type MeshAuthorizationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MeshAuthorization `json:"items"`
}
