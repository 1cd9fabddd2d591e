// Package controllers is the control plane: it wires the pure core and the packages at its edges into
// one operator. It decides when something is looked at again and passes values between packages; what
// they mean is decided in the packages.
package controllers

// The operator's rights. There is no wildcard, and nothing that names an object of a user can be
// written. Where Weft's own objects have fixed names, the rights are limited to them; list and watch are
// then allowed with the field selector metadata.name alone, which infra.CacheOptions sets, and create by
// server-side apply, which names what it creates.
//
// Secrets: the operator reads and writes certificates in enrolled namespaces, reads the Secrets and ConfigMaps
// there that a MeshAuthorization names for the keys of an issuer, and no others. RBAC cannot express "Secrets
// with this label" or "namespaces with this label", so the rights are in the ClusterRole weft-identity
// (config/rbac/identity_role.yaml), which is bound by a RoleBinding in each enrolled namespace; the operator
// may create that binding, to that role, under that name. The cluster's other Secrets are out of its reach,
// and who may be reached can be seen with
// "kubectl get rolebindings -A --field-selector metadata.name=weft-identity".

// What Compile and the side paths read.
// +kubebuilder:rbac:groups="",resources=namespaces;nodes;pods;services,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=grpcroutes;httproutes,verbs=get;list;watch
// +kubebuilder:rbac:groups=mesh.weft.dev,resources=meshauthorizations;meshpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,resourceNames=grpcroutes.gateway.networking.k8s.io;httproutes.gateway.networking.k8s.io;meshauthorizations.mesh.weft.dev;meshes.mesh.weft.dev;meshpolicies.mesh.weft.dev,verbs=get

// Which NetworkPolicies would block meshed traffic.
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch

// The Mesh, statuses and Events.
// +kubebuilder:rbac:groups=mesh.weft.dev,resources=meshes,verbs=create;get;list;watch
// +kubebuilder:rbac:groups=mesh.weft.dev,resources=meshauthorizations/status;meshes/status;meshpolicies/status,verbs=update
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=grpcroutes/status;httproutes/status,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Who connects to the configuration stream: the token, and whether its pod is one of ours.
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=get

// What an enrolled namespace gets (package infra).
// +kubebuilder:rbac:groups="",resources=configmaps,resourceNames=weft-ca-bundle,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups="",resources=serviceaccounts,resourceNames=weft-proxy,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups=apps,resources=deployments,resourceNames=weft-proxy,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,resourceNames=weft-proxy,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,resourceNames=weft-proxy,verbs=create;delete;patch
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=rolebindings,resourceNames=weft-identity,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterroles,resourceNames=weft-identity,verbs=bind

// Where API servers find the roots of the webhook (package webhooks).
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations;validatingwebhookconfigurations,resourceNames=weft-webhook,verbs=get;list;patch;watch

// In the operator's own namespace: the certificate authority, the destination numbers, the key sets that were
// fetched last, the address of the leader, and the owner of the node agents' pods. A user's authority is in a
// Secret that they name, or signed by cert-manager for one request.
// +kubebuilder:rbac:groups="",namespace=weft-system,resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",namespace=weft-system,resources=secrets,resourceNames=weft-ca,verbs=list;update;watch
// +kubebuilder:rbac:groups="",namespace=weft-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=cert-manager.io,namespace=weft-system,resources=certificaterequests,verbs=create
// +kubebuilder:rbac:groups=cert-manager.io,namespace=weft-system,resources=certificaterequests,resourceNames=weft-ca,verbs=delete;get
// +kubebuilder:rbac:groups="",namespace=weft-system,resources=configmaps,verbs=create
// +kubebuilder:rbac:groups="",namespace=weft-system,resources=configmaps,resourceNames=weft-destinations;weft-jwks,verbs=get;update
// +kubebuilder:rbac:groups="",namespace=weft-system,resources=configmaps,resourceNames=weft-mesh,verbs=get
// +kubebuilder:rbac:groups=discovery.k8s.io,namespace=weft-system,resources=endpointslices,resourceNames=weft-config-ipv4;weft-config-ipv6,verbs=create;patch
// +kubebuilder:rbac:groups=apps,namespace=weft-system,resources=daemonsets,resourceNames=weft-node,verbs=get
