package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// MeshName is the only name a Mesh may have.
const MeshName = "default"

// MeshSpec is the global configuration of the mesh.
type MeshSpec struct {
	// trustDomain is the SPIFFE trust domain of every identity in the mesh. It cannot be changed,
	// because every certificate in use names it.
	// +optional
	// +default="cluster.local"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$')",message="trustDomain must be a SPIFFE trust domain: lower-case letters, digits, dots, dashes and underscores, beginning and ending with a letter or digit"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="trustDomain cannot be changed: every certificate in use names it"
	TrustDomain string `json:"trustDomain,omitempty"`

	// certificates configures workload certificates.
	// +optional
	// +default={}
	Certificates CertificatesSpec `json:"certificates,omitempty,omitzero"`

	// certificateAuthority names the authority that the certificates of the mesh are from. Without it the
	// operator makes a root and an intermediate of its own. When another is named, or what is named offers
	// another one, the change goes through the steps of an exchange of the root: nobody is cut off, and what
	// is in force stays while what is named cannot be used.
	// +optional
	CertificateAuthority *CertificateAuthoritySpec `json:"certificateAuthority,omitempty"`

	// proxy configures the proxies of enrolled namespaces.
	// +optional
	// +default={}
	Proxy ProxySpec `json:"proxy,omitempty,omitzero"`

	// jwks says where key sets of the issuers of tokens may be fetched from.
	// +optional
	JWKS JWKSSpec `json:"jwks,omitempty,omitzero"`

	// telemetry says where proxies send what they observe; what they observe is for policies to say.
	// +optional
	Telemetry MeshTelemetry `json:"telemetry,omitempty,omitzero"`

	// defaults are the lowest level of every MeshPolicy.
	// +optional
	Defaults *TrafficPolicy `json:"defaults,omitempty"`
}

// CertificatesSpec configures workload certificates.
type CertificatesSpec struct {
	// lifetime of a workload certificate, as a Gateway API duration (GEP-2257); it is renewed at half
	// of it. At least 10s.
	// +optional
	// +default="24h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('8760h')",message="lifetime must be between 10s and 8760h"
	Lifetime *gwv1.Duration `json:"lifetime,omitempty"`
}

// CertificateAuthoritySpec names a certificate authority in one of two ways.
// +kubebuilder:validation:XValidation:rule="has(self.secret) != has(self.issuerRef)",message="set either secret or issuerRef"
type CertificateAuthoritySpec struct {
	// secret in the namespace of the operator, of type kubernetes.io/tls: tls.crt has the certificate of an
	// authority, followed by what links it to a root, and tls.key its private key. ca.crt has the roots that
	// are to be trusted; without it, tls.crt must end with the root.
	// +optional
	Secret AuthoritySecret `json:"secret,omitempty,omitzero"`

	// issuerRef names an issuer of cert-manager. It is asked, by a CertificateRequest named weft-ca in the
	// namespace of the operator, to sign an intermediate whose key the operator has made; the operator issues
	// certificates with that, so that the issuer is needed once in two months.
	// +optional
	IssuerRef AuthorityIssuer `json:"issuerRef,omitempty,omitzero"`
}

// AuthoritySecret names a Secret in the namespace of the operator.
// +kubebuilder:validation:XValidation:rule="has(self.name)",message="name is required"
type AuthoritySecret struct {
	// name of the Secret.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="name must be that of a Secret"
	// +kubebuilder:validation:XValidation:rule="self != 'weft-ca'",message="weft-ca is where the operator keeps what is in force: name another Secret"
	Name string `json:"name,omitempty"`
}

// AuthorityIssuer names an issuer of cert-manager.
// +kubebuilder:validation:XValidation:rule="has(self.name)",message="name is required"
type AuthorityIssuer struct {
	// name of the issuer. An Issuer is in the namespace of the operator.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// kind of the issuer.
	// +optional
	// +default="Issuer"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind,omitempty"`

	// group of the issuer's kind.
	// +optional
	// +default="cert-manager.io"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`
}

// ProxySpec configures the proxies of enrolled namespaces.
type ProxySpec struct {
	// replicas per enrolled namespace.
	// +optional
	// +default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Replicas int32 `json:"replicas,omitempty"`

	// image of the proxy. The operator's own release of it is used when empty.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`

	// placement is where the proxy of a pod is for which neither its label nor its namespace's
	// mesh.weft.dev/placement says: namespace, one of the proxies that all pods of the namespace share, or
	// sidecar, a container of the pod itself. Pods have what they were created with.
	// +optional
	// +default="namespace"
	// +kubebuilder:validation:Enum=namespace;sidecar
	Placement Placement `json:"placement,omitempty"`

	// resources of the proxy container.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// maxConnectionAge ends captured connections gracefully after this time, so that they move to the
	// proxies that run now. At least 10s.
	// +optional
	// +default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s')",message="maxConnectionAge must be at least 10s"
	MaxConnectionAge *gwv1.Duration `json:"maxConnectionAge,omitempty"`

	// networkPolicy says who limits who may connect to the proxies. Managed: the operator keeps a NetworkPolicy
	// weft-proxy in each enrolled namespace, which admits what the mesh needs, also where other policies of the
	// namespace would not. None: it keeps none, and those of the namespace have to admit it.
	// +optional
	// +default="Managed"
	// +kubebuilder:validation:Enum=Managed;None
	NetworkPolicy ProxyNetworkPolicy `json:"networkPolicy,omitempty"`
}

// Placement is where the proxy of a pod is.
type Placement string

// The values of Placement, which PlacementLabel has as well.
const (
	PlacementNamespace Placement = "namespace"
	PlacementSidecar   Placement = "sidecar"
)

// ProxyNetworkPolicy says who limits who may connect to the proxies.
type ProxyNetworkPolicy string

// The values of ProxyNetworkPolicy.
const (
	NetworkPolicyManaged ProxyNetworkPolicy = "Managed"
	NetworkPolicyNone    ProxyNetworkPolicy = "None"
)

// Condition types of a Mesh.
const (
	// MeshReady is True when the control plane serves and every node agent has proven capture.
	MeshReady = "Ready"
	// MeshCaptured is True when the agent of every schedulable node has proven capture by its canary.
	MeshCaptured = "Captured"
	// MeshGatewayAPI is True when the Gateway API's resources are installed in a version Weft supports.
	MeshGatewayAPI = "GatewayAPIInstalled"
	// MeshProxiesReady is True when every enrolled namespace has a proxy that is ready. Ready does not depend
	// on it: the namespaces that it names are alone concerned.
	MeshProxiesReady = "ProxiesReady"
	// MeshProxiesCurrent is True when the proxies of every enrolled namespace run with the image and resources that
	// are wanted. They are replaced one namespace after the other; the message says how far that is, and with reason
	// Stuck what keeps it from going on.
	MeshProxiesCurrent = "ProxiesCurrent"
	// MeshDefaultsAccepted is True when spec.defaults are in force as they are. Otherwise the parts that are at
	// fault, which the message names, are left out.
	MeshDefaultsAccepted = "DefaultsAccepted"
	// MeshTelemetryAccepted is there while spec.telemetry says something. It is True when that is in force.
	MeshTelemetryAccepted = "TelemetryAccepted"
	// MeshCertificatesValid is True when root and intermediate have life enough left and every certificate
	// that is due could be issued.
	MeshCertificatesValid = "CertificatesValid"
	// MeshCertificateAuthorityAccepted is True when the certificate authority in force is from where the spec
	// says, or is on its way to be.
	MeshCertificateAuthorityAccepted = "CertificateAuthorityAccepted"
	// MeshRootRotating is True while the root is being exchanged; its reason is the phase, and its message
	// says who is waited for.
	MeshRootRotating = "RootRotating"
	// MeshStrictEnforced is there while some port is strict. It is True while node agents have proven that every
	// strict port refuses whom it should.
	MeshStrictEnforced = "StrictEnforced"
	// MeshPlainCallers is True while callers past the mesh were seen lately; the message names some.
	MeshPlainCallers = "PlainCallers"
	// MeshTrafficAdmitted is True when no NetworkPolicy blocks meshed traffic of an enrolled namespace. Ready does
	// not depend on it: the pods that the policies select are alone concerned.
	MeshTrafficAdmitted = "TrafficAdmitted"
	// MeshProxiesPlaced is there while some pod of an enrolled namespace has no proxy of its own and is to have one, or a
	// label asks for what nobody knows. It is False then; Ready does not depend on it.
	MeshProxiesPlaced = "ProxiesPlaced"
)

// ReasonStuck of MeshProxiesCurrent says that new proxies do not become ready, and that the old ones stay.
const ReasonStuck = "Stuck"

// MeshStatus is what the operator has observed.
type MeshStatus struct {
	// conditions of the mesh: Ready, Captured, GatewayAPIInstalled, ProxiesReady, ProxiesCurrent, DefaultsAccepted,
	// TrafficAdmitted, CertificatesValid, CertificateAuthorityAccepted and RootRotating, and TelemetryAccepted,
	// StrictEnforced, PlainCallers, ProxiesPlaced, Stalled and Reconciling where there is something to say.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the object that the status is about. It is -1 until the operator has
	// looked at the object.
	// +optional
	// +kubebuilder:validation:Minimum=-1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"` //nolint:kubeapilinter // as everywhere in Kubernetes: zero is never a generation

	// namespaces is the number of enrolled namespaces.
	// +optional
	Namespaces *int32 `json:"namespaces,omitempty"`

	// captured counts the nodes whose agent has proven capture, as "n/m".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Captured string `json:"captured,omitempty"`

	// certificateAuthority is what issues certificates and what is trusted.
	// +optional
	CertificateAuthority CertificateAuthorityStatus `json:"certificateAuthority,omitempty,omitzero"`

	// nodes lists what each node agent has proven.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=5000
	Nodes []NodeStatus `json:"nodes,omitempty"`

	// plainCallers are the enrolled namespaces whose pods were called past the mesh within the last hour: by
	// connections to a port that a Service publishes that came neither from a proxy of the namespace nor from the
	// pod's own node. Strict mode refuses them, unless mtls.allowFrom has them.
	// +optional
	// +listType=map
	// +listMapKey=namespace
	// +kubebuilder:validation:MaxItems=1000
	PlainCallers []NamespacePlainCallers `json:"plainCallers,omitempty"`
}

// NamespacePlainCallers is who calls the pods of one namespace past the mesh.
type NamespacePlainCallers struct {
	// namespace of the pods that are called.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// callers is how many there are: pods, and addresses of what is none, each counted for every Service port that
	// it calls.
	// +optional
	Callers *int32 `json:"callers,omitempty"`

	// top are those with the most connections.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Top []PlainCaller `json:"top,omitempty"`
}

// PlainCaller is one caller of one Service port past the mesh.
type PlainCaller struct {
	// caller is a pod as namespace/name, or an address that belongs to no pod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=320
	Caller string `json:"caller,omitempty"`

	// serviceAccount that the pod runs as.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServiceAccount string `json:"serviceAccount,omitempty"`

	// service whose port the called port of the pod is, as name:port.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=320
	Service string `json:"service,omitempty"`

	// connections were let in.
	// +optional
	Connections *int64 `json:"connections,omitempty"`

	// refused were not.
	// +optional
	Refused *int64 `json:"refused,omitempty"`

	// lastSeen is when the last one came.
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`
}

// CertificateAuthorityStatus tells what issues, what is trusted, and how far an exchange of the root has
// come.
type CertificateAuthorityStatus struct {
	// rotation is the phase of the exchange of the root. Steady: none is under way. DistributingTrust: the next root is
	// trusted beside the present one. ReissuingCertificates: the next root's certificates take the place of
	// all others. DroppingTrust: the previous root is trusted no more. Each ends once everybody whom it
	// concerns has acknowledged it.
	// +optional
	// +kubebuilder:validation:Enum=Steady;DistributingTrust;ReissuingCertificates;DroppingTrust
	Rotation string `json:"rotation,omitempty"`

	// since is when the phase began.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// acknowledged counts the proxies and node agents that have acknowledged the phase, as "n/m"; absent
	// when no exchange is under way.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Acknowledged string `json:"acknowledged,omitempty"`

	// rotateRoot is the value of the annotation mesh.weft.dev/rotate-root that the last exchange was begun
	// for. Another value begins the next one.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	RotateRoot string `json:"rotateRoot,omitempty"`

	// roots are trusted.
	// +optional
	// +listType=map
	// +listMapKey=fingerprint
	// +kubebuilder:validation:MaxItems=64
	Roots []AuthorityCertificate `json:"roots,omitempty"`

	// intermediates issue certificates. There is one.
	// +optional
	// +listType=map
	// +listMapKey=fingerprint
	// +kubebuilder:validation:MaxItems=8
	Intermediates []AuthorityCertificate `json:"intermediates,omitempty"`
}

// AuthorityCertificate is a root or an intermediate.
type AuthorityCertificate struct {
	// fingerprint is the SHA-256 of the certificate, in lower-case hexadecimal digits.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint,omitempty"`

	// notAfter is when it ends.
	// +optional
	NotAfter *metav1.Time `json:"notAfter,omitempty"`

	// issuing tells that what is issued now depends on it.
	// +optional
	Issuing *bool `json:"issuing,omitempty"`
}

// NodeStatus is what the agent of one node has proven by a canary of its own.
type NodeStatus struct {
	// name of the node.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// captured tells that a connection to a cluster IP arrived at a proxy with the right destination.
	// +optional
	Captured *bool `json:"captured,omitempty"`

	// guarded tells that packets with a forged source address do not leave a pod.
	// +optional
	Guarded *bool `json:"guarded,omitempty"`

	// strictEnforced tells that the strict filter refused a foreign caller.
	// +optional
	StrictEnforced *bool `json:"strictEnforced,omitempty"`

	// latePods counts running pods whose containers started before their rules were in force.
	// +optional
	LatePods *int32 `json:"latePods,omitempty"`

	// uncapturedPods counts running pods of enrolled namespaces that are not captured.
	// +optional
	UncapturedPods *int32 `json:"uncapturedPods,omitempty"`

	// hostNetworkPods counts running pods of enrolled namespaces on the host's network, which nothing
	// captures.
	// +optional
	HostNetworkPods *int32 `json:"hostNetworkPods,omitempty"`

	// message says why something is not proven.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// Mesh is the global configuration of Weft. The operator creates the one named default when it is
// absent and never edits its spec.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=wm,categories=gateway-api
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Captured",type=string,JSONPath=`.status.captured`
// +kubebuilder:printcolumn:name="Namespaces",type=integer,JSONPath=`.status.namespaces`
// +kubebuilder:printcolumn:name="TrustDomain",type=string,priority=1,JSONPath=`.spec.trustDomain`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="the only Mesh is named default"
type Mesh struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is the desired configuration. Defaults are filled in even when there is none, so that it shows
	// what is in force and that trustDomain cannot be changed from its default either.
	// +optional
	// +default={}
	Spec MeshSpec `json:"spec,omitempty,omitzero"`

	// status is what the operator has observed.
	// +optional
	// +default={"observedGeneration":-1}
	Status MeshStatus `json:"status,omitempty,omitzero"`
}

// MeshList is a list of Mesh.
// +kubebuilder:object:root=true
type MeshList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Mesh `json:"items"`
}
