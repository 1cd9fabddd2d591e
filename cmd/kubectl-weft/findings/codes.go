package findings

import (
	"slices"
	"strings"
)

// Code names a finding. Codes are part of the API: they may be added, and are neither changed nor reused.
type Code string

// The codes of Check.
const (
	OldKubernetes     Code = "WEFT001"
	NoGatewayAPI      Code = "WEFT002"
	OldGatewayAPI     Code = "WEFT003"
	NoNRI             Code = "WEFT004"
	SocketLB          Code = "WEFT005"
	MayNotInstall     Code = "WEFT006"
	NoNodes           Code = "WEFT007"
	NotInstalled      Code = "WEFT010"
	OperatorNotReady  Code = "WEFT011"
	AgentsNotReady    Code = "WEFT012"
	NoAdmission       Code = "WEFT013"
	MeshNotReady      Code = "WEFT014"
	NotCaptured       Code = "WEFT015"
	NoProxyReady      Code = "WEFT016"
	Certificates      Code = "WEFT017"
	DefaultsNotInUse  Code = "WEFT018"
	VersionsDiffer    Code = "WEFT019"
	PodsNotCaptured   Code = "WEFT020"
	RouteNotAccepted  Code = "WEFT101"
	RefsNotResolved   Code = "WEFT102"
	RuleDropped       Code = "WEFT103"
	RuleNeverReached  Code = "WEFT104"
	WeightsZero       Code = "WEFT105"
	NoBackends        Code = "WEFT106"
	HostnamesIgnored  Code = "WEFT107"
	RouteHidden       Code = "WEFT108"
	NotProgrammed     Code = "WEFT109"
	NoEndpoints       Code = "WEFT110"
	PolicyInvalid     Code = "WEFT111"
	PolicyNotAccepted Code = "WEFT112"
	PolicyContradicts Code = "WEFT113"
	AuthzInvalid      Code = "WEFT120"
	AuthzNotAccepted  Code = "WEFT121"
	AuthzSuspicious   Code = "WEFT122"
	Bypassable        Code = "WEFT123"
	PolicyBlocks      Code = "WEFT130"
	HostNetworkCaller Code = "WEFT131"
	NodePortCallers   Code = "WEFT132"
	PlainLegs         Code = "WEFT133"
	ServiceUncaptured Code = "WEFT134"
	OpaquePort        Code = "WEFT135"
)

// Entry is what is known about a code.
type Entry struct {
	Code     Code
	Severity Severity
	// Title names it in a few words, Meaning explains it, Remedy says what to do.
	Title, Meaning, Remedy string
}

// docs is where docs/findings.md can be read.
const docs = "https://weft.dev/docs/findings#"

// Link is where the code is explained.
func (c Code) Link() string { return docs + strings.ToLower(string(c)) }

// Entry returns what is known about the code, nothing if it does not exist.
func (c Code) Entry() Entry {
	if i := slices.IndexFunc(table, func(e Entry) bool { return e.Code == c }); i >= 0 {
		return table[i]
	}
	return Entry{Code: c}
}

// Codes returns all entries by their codes.
func Codes() []Entry { return slices.Clone(table) }

var table = []Entry{
	{OldKubernetes, Error, "Kubernetes is too old",
		"Weft's webhook needs match conditions, which Kubernetes has from 1.30 on.",
		"Upgrade the cluster. Weft is tested on Kubernetes 1.36."},
	{NoGatewayAPI, Error, "the Gateway API is not installed",
		"Weft has no routes of its own: HTTPRoute and GRPCRoute are kinds of the Gateway API, which a cluster does not have by itself.",
		"Install the standard channel of the Gateway API, version 1.7 or later."},
	{OldGatewayAPI, Warning, "the Gateway API is older than what Weft is tested with",
		"Fields that the installed version does not have are dropped by the API server before Weft sees them.",
		"Install the standard channel of the Gateway API, version 1.7 or later."},
	{NoNRI, Warning, "the container runtime of a node has no NRI",
		"Without NRI the node agent attaches to pods right after they have started instead of before their first instruction, and reports the gap.",
		"Use containerd 2.0 or later, which has NRI on, or CRI-O 1.26 or later; see docs/architecture.md, Capture."},
	{SocketLB, Error, "Cilium translates Services before the pod's network sees them",
		"Cilium's kube-proxy replacement chooses a pod at the socket. Calls then never have the cluster IP that Weft captures.",
		"Set socketLB.hostNamespaceOnly=true in Cilium (bpf-lb-sock-hostns-only in its ConfigMap)."},
	{MayNotInstall, Error, "you may not install Weft",
		"Installing makes CustomResourceDefinitions, ClusterRoles and a namespace.",
		"Ask somebody who is cluster-admin, or for these rights."},
	{NoNodes, Error, "no node can run Weft",
		"Node agents and proxies run on Linux nodes.",
		"Add a Linux node to the cluster."},
	{NotInstalled, Error, "Weft is not installed",
		"The cluster has none, or not all, of Weft's CustomResourceDefinitions.",
		"Install Weft: kubectl apply --server-side -f dist/install.yaml."},
	{OperatorNotReady, Error, "the operator is not ready",
		"Nothing that changes now reaches proxies. What they have stays in force.",
		"Look at the pods and events of Deployment weft-operator, and at their logs."},
	{AgentsNotReady, Error, "a node has no agent that is ready",
		"Pods that start there are not captured; those that run stay as they are.",
		"Look at the pods of DaemonSet weft-node on the node, and at their events and logs."},
	{NoAdmission, Warning, "the API server cannot ask the operator about objects",
		"What can never work is then stored all the same, and only the object's status says so.",
		"Look at ValidatingWebhookConfiguration weft-webhook: the leader of the operator keeps its caBundle."},
	{MeshNotReady, Error, "the Mesh is not ready",
		"The condition Ready of the Mesh is not True.",
		"The message names what is missing. If there is no Mesh, the operator has not run yet."},
	{NotCaptured, Error, "capture is not proven on a node",
		"Each node agent proves by a canary that calls of pods reach a proxy and that forged sources are dropped. On this node it has not.",
		"The message is the agent's. Look at its log, and at what else writes nftables rules into pods' networks."},
	{NoProxyReady, Error, "a namespace has no ready proxy",
		"Connections to Services with a route or an enforced authorization are refused there, others are made without the mesh.",
		"Look at the pods of Deployment weft-proxy in the namespace."},
	{Certificates, Warning, "certificates need attention",
		"The root or the intermediate is about to end, or a certificate could not be issued.",
		"kubectl weft certs shows which. kubectl weft certs rotate-root exchanges the root."},
	{DefaultsNotInUse, Error, "defaults or telemetry of the Mesh are not in force",
		"A part of spec.defaults or spec.telemetry of the Mesh is at fault, and is left out.",
		"Correct the field that the message names."},
	{VersionsDiffer, Warning, "versions differ",
		"Operator, node agents, proxies and this command work together across one version, and no more is tested.",
		"Finish the upgrade that is under way, or update this command."},
	{PodsNotCaptured, Warning, "pods of enrolled namespaces are not captured",
		"Pods that ran before Weft, or that the agent could not attach to, call Services without the mesh.",
		"Restart them. Pods on the host's network are never captured."},

	{RouteNotAccepted, Error, "a route is not accepted",
		"The route does nothing for this parent. Requests are treated as if it did not exist, or are answered with 500 where its rules are invalid.",
		"The message says why and names the field."},
	{RefsNotResolved, Error, "a backend of a route cannot be resolved",
		"The share of requests that the reference has is answered with 500.",
		"Create what it names, or correct the name or port."},
	{RuleDropped, Error, "a rule of a route is invalid",
		"Requests that match it are answered with 500; the other rules work.",
		"The message names the field."},
	{RuleNeverReached, Warning, "a match of a rule is never reached",
		"Every request that would match it is taken by another rule that comes first: the Gateway API prefers the more specific match, then the older route, then the first by name.",
		"Remove it, or make it more specific than the other."},
	{WeightsZero, Error, "all weights of a rule are zero",
		"The rule has nowhere to send requests: they are answered with 500.",
		"Give one backend a weight that is not zero."},
	{NoBackends, Error, "a rule has no backend",
		"The rule has no backendRefs and no redirect: its requests are answered with 500.",
		"Add a backendRef or a RequestRedirect filter."},
	{HostnamesIgnored, Info, "spec.hostnames has no effect",
		"A route of a Service applies to all requests to the Service, whatever their host (GEP-1294).",
		"Remove the field, or match on the header Host."},
	{RouteHidden, Info, "a consumer route hides producer routes",
		"Clients in the namespace of a consumer route see its rules alone. The routes of the Service's own namespace do not apply to them (GEP-1294).",
		"Repeat in the consumer route what shall still apply."},
	{NotProgrammed, Warning, "not every proxy has a route or policy",
		"A ready proxy has not acknowledged it yet, so that some requests are treated as before.",
		"It passes within a second after a change. If it stays, kubectl weft proxy status names the proxy."},
	{NoEndpoints, Error, "a backend has no ready pod",
		"Requests that the route sends there are answered with 503 no_endpoints.",
		"Look at the Service's selector and at its pods."},
	{PolicyInvalid, Error, "a MeshPolicy is invalid",
		"What was valid before stays in force; without anything before, nothing of it is.",
		"Correct the field that the message names."},
	{PolicyNotAccepted, Error, "a MeshPolicy does not apply to a target",
		"The target does not exist, is not part of the mesh, or has an older policy.",
		"The message says which."},
	{PolicyContradicts, Warning, "fields of policies contradict each other",
		"Two values that result for one target do not go together, so that one of them never has an effect.",
		"Change one of the two; the message names where each comes from."},
	{AuthzInvalid, Error, "a MeshAuthorization is invalid",
		"It closes its targets until it is corrected: every call is denied.",
		"Correct the field that the message names."},
	{AuthzNotAccepted, Error, "a MeshAuthorization does not apply to a target",
		"The target does not exist or is not part of the mesh, so that nothing is decided there by it.",
		"The message says which."},
	{AuthzSuspicious, Warning, "a MeshAuthorization may not be what was meant",
		"It is valid. The message says what looks like a mistake.",
		"Look at what the message names."},
	{Bypassable, Warning, "strict ports are not proven to be",
		"A MeshPolicy or MeshAuthorization makes ports strict. Not every pod behind them is known to refuse callers that the mesh has not identified.",
		"The message says which and why. Where it stays so, add a NetworkPolicy that admits only the namespace's proxies and the nodes."},

	{PolicyBlocks, Error, "a NetworkPolicy blocks meshed traffic",
		"With Weft a pod calls the proxies of its namespace instead of other pods, at a port from 16384 to 65535, and is called by them. The policy isolates pods and does not admit that, so that their calls, or calls of them, fail where the network plugin enforces policies.",
		"Add the rule that the message shows, to this policy or to another one that selects the same pods: policies add up. Who may call whom beyond a proxy is then for a MeshAuthorization to say."},
	{HostNetworkCaller, Warning, "a pod on the host's network is not captured",
		"The pod shares the network of its node. What it calls does not pass a proxy: no route, no encryption, no authorization.",
		"Run it on the pod network, or count on it."},
	{NodePortCallers, Warning, "a Service is reached from outside without the mesh",
		"Calls that come in by a node port or load balancer go to the pods directly. Routes and authorizations do not apply to them.",
		"Put a gateway in front, and make the Service ClusterIP."},
	{PlainLegs, Info, "legs between pods and proxies are plain text",
		"Weft encrypts between the proxies of two namespaces. The legs between a pod and its own namespace's proxy cross nodes in plain text unless the network encrypts.",
		"Turn on encryption in the network plugin (WireGuard or IPsec in Cilium or Calico) where nodes are not on a trusted network."},
	{ServiceUncaptured, Info, "a Service of an enrolled namespace is not captured",
		"Calls to it are made as without the mesh.",
		"The message says why. It is on purpose for Services that are labelled so."},
	{OpaquePort, Info, "a port declares no protocol and has no route",
		"Its bytes are relayed as they are: no retries, no requests in metrics, no rules on paths.",
		"Set appProtocol, or name the port after its protocol, such as http."},
}
