// Package engine is the runtime of the data plane: it holds the configuration in force, accepts captured
// connections and the hop of other namespaces, passes requests through route rules to backends, and ends
// its connections gracefully. What speaks HTTP/1.1 is net/http (HTTPStd) or package h1 (HTTPWeft), and both lead to
// the same exchange; HTTP/2 is net/http's.
//
// A request pins the configuration it began with. Configurations are immutable: a delta is validated
// resource by resource, built whole beside the one in force, and swapped in with one atomic pointer.
//
// The package must not decide anything about routes, filters, endpoints or identities itself: packages
// http, upstream and identity do. It owns deadlines and retries, because only it sees all tries of a
// request. It reads no files and knows nothing of Kubernetes.
package engine
