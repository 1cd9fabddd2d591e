// Package wire is the contract between Weft's control plane and its data plane: the resources that
// the operator compiles from the Gateway API and the messages that carry them to proxies and node
// agents.
//
// A resource follows a concept of the user's API (a Service port, a route rule, a certificate) and
// points up at what it belongs to; nothing lists its children. Resources are values: whoever receives
// one must not change it, because the hub, its clients and the proxy's configuration share them.
//
// The package imports nothing of Weft and nothing of Kubernetes, so that both sides can depend on it.
// Its JSON form is what travels and what golden tests show. A field may be added; a field is never
// given another meaning, since a proxy of the previous version must keep working. What it must understand to do
// what somebody relies on is numbered by Revision.
package wire
