package distribute

import (
	"fmt"
	"strings"
	"time"

	"weft.dev/weft/proxy/wire"
)

// ClientKind says what a client is.
type ClientKind string

// The kinds of clients.
const (
	ClientProxy ClientKind = "proxy"
	ClientNode  ClientKind = "node"
	// ClientSidecar is the proxy beside one pod.
	ClientSidecar ClientKind = "sidecar"
)

// Identity is who a client has proven to be. Nothing in it comes from the client's own messages.
type Identity struct {
	Kind ClientKind
	// Namespace, Pod and PodUID name the pod that the client runs in; for a proxy, Namespace is the
	// one it serves.
	Namespace string
	Pod       string
	PodUID    string
	// ServiceAccount is that of the pod; only sidecars have it.
	ServiceAccount string
	// Node is the node that the pod runs on; for a node agent, the one it speaks for.
	Node string
	// Expires is when the proof ends; the stream ends with it. Zero means never.
	Expires time.Time
}

// String returns "proxy namespace/pod" or "node name (namespace/pod)".
func (i Identity) String() string {
	if i.Kind == ClientNode {
		return fmt.Sprintf("node %s (%s/%s)", i.Node, i.Namespace, i.Pod)
	}
	return fmt.Sprintf("%s %s/%s", i.Kind, i.Namespace, i.Pod)
}

// slot is what only one stream can speak for at a time: a pod.
type slot struct {
	kind                   ClientKind
	namespace, pod, podUID string
}

func (i Identity) slot() slot { return slot{i.Kind, i.Namespace, i.Pod, i.PodUID} }

// feedKey names a set of clients that receive the same resources.
type feedKey string

const (
	feedProxies feedKey = "proxies"
	feedNodes   feedKey = "nodes"
)

func feedNamespace(namespace string) feedKey { return feedKey("namespace/" + namespace) }

func feedNode(name string) feedKey { return feedKey("node/" + name) }

// feedSidecars is for the proxies beside pods of a namespace, feedAccount for those whose pods run as one ServiceAccount,
// and feedWorkload for the one beside one pod.
func feedSidecars(namespace string) feedKey { return feedKey("sidecars/" + namespace) }

func feedAccount(namespace, account string) feedKey {
	return feedKey("account/" + namespace + "/" + account)
}

func feedWorkload(namespace, pod string) feedKey {
	return feedKey(wire.ScopeWorkload(namespace, pod))
}

// subscriptions returns the feeds that an identity receives. Together with audience this is the whole
// of the authorization: a resource reaches a client through a feed that both name, or not at all.
func subscriptions(i Identity) []feedKey {
	switch {
	case i.Kind == ClientProxy && i.Namespace != "":
		return []feedKey{feedProxies, feedNamespace(i.Namespace)}
	case i.Kind == ClientSidecar && i.Namespace != "" && i.Pod != "" && i.ServiceAccount != "":
		return []feedKey{
			feedProxies, feedSidecars(i.Namespace), feedAccount(i.Namespace, i.ServiceAccount), feedWorkload(i.Namespace, i.Pod),
		}
	case i.Kind == ClientNode && i.Node != "":
		return []feedKey{feedNodes, feedNode(i.Node)}
	}
	return nil
}

// audience returns the feeds that carry a resource. Capture and Inbound never reach proxies; node agents
// receive Mesh and Capture, and Inbound of their own node, which tells who calls whom, and nothing else; a
// certificate, which holds a private key, reaches the proxies of the namespace it belongs to, those beside pods that run
// as its ServiceAccount, and nobody else, whatever its scope says. The proxy beside a pod receives what its own namespace
// needs as a client and what says who may call there, and Sidecar of its own pod; neither who else is in the namespace nor
// where its pods are. A resource without an audience stays in the operator.
func audience(r *wire.Resource) []feedKey {
	if r.Kind == wire.KindSidecar {
		if s := r.Sidecar; s != nil && s.Namespace != "" && s.Pod != "" && r.Scope == wire.ScopeWorkload(s.Namespace, s.Pod) {
			return []feedKey{feedWorkload(s.Namespace, s.Pod)}
		}
		return nil
	}
	if r.Kind == wire.KindInbound {
		if node, ok := nodeOf(r.Scope); ok {
			return []feedKey{feedNode(node)}
		}
		return nil
	}
	forNodes := r.Kind == wire.KindMesh || r.Kind == wire.KindCapture
	forProxies := r.Kind != wire.KindCapture
	if r.Kind == wire.KindCertificate {
		forProxies = r.Certificate != nil && r.Certificate.Namespace != "" &&
			r.Scope == wire.ScopeNamespace(r.Certificate.Namespace)
	}
	switch r.Scope {
	case wire.ScopeMesh:
		var feeds []feedKey
		if forProxies {
			feeds = append(feeds, feedProxies)
		}
		if forNodes {
			feeds = append(feeds, feedNodes)
		}
		return feeds
	case wire.ScopeNodes:
		if forNodes {
			return []feedKey{feedNodes}
		}
		return nil
	}
	namespace, ok := namespaceOf(r.Scope)
	if !ok || !forProxies {
		return nil
	}
	feeds := []feedKey{feedNamespace(namespace)}
	switch {
	case r.Kind == wire.KindCertificate && !r.Certificate.Proxy:
		feeds = append(feeds, feedAccount(namespace, r.Certificate.ServiceAccount))
	case forSidecars(r):
		feeds = append(feeds, feedSidecars(namespace))
	}
	return feeds
}

// forSidecars tells which resources of a namespace the proxies beside its pods receive. Endpoints are those of Services
// outside of the mesh, which are dialled directly: they have a consumer's copy.
func forSidecars(r *wire.Resource) bool {
	switch r.Kind {
	case wire.KindDestination, wire.KindRoute, wire.KindBackend, wire.KindAuthorization:
		return true
	case wire.KindEndpoints:
		return strings.Contains(r.Key, "@")
	default:
		return false
	}
}

// namespaceOf returns the namespace of a namespace scope.
func namespaceOf(scope wire.Scope) (string, bool) {
	namespace, ok := strings.CutPrefix(string(scope), string(wire.ScopeNamespace("")))
	return namespace, ok && namespace != ""
}

// nodeOf returns the node of a node scope.
func nodeOf(scope wire.Scope) (string, bool) {
	node, ok := strings.CutPrefix(string(scope), string(wire.ScopeNode("")))
	return node, ok && node != ""
}
