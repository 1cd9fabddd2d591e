// Package harness runs a whole mesh in one process, without a cluster and without root: API objects are
// compiled, published by the operator's hub over TLS, received by a real proxy for each enrolled
// namespace, and served on loopback, where clients of the harness send real requests to built-in pods.
//
// Addresses in API objects are taken for what they are in a cluster. The harness is their network: it
// leads what a client or a proxy dials to the listener that stands for a cluster IP, a pod or a proxy.
//
// It must not contain behaviour of the mesh itself. What it stands in for is what a cluster brings: the
// API server, DNS, kube-proxy, the capture of connections by node agents, and the applications.
package harness
