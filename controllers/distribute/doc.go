// Package distribute is the only part of the control plane that talks to proxies and node agents. It
// owns what they are to hold at this moment (Hub), who may hold which part of it (Identity), how they
// prove who they are (Authenticator), and the stream that carries changes down and acknowledgements up
// (Server).
//
// The hub keeps the latest state and no queues. Every resource belongs to at most two feeds, ordered by
// the sequence number of the last change, and a client is described by one number: it holds its feeds
// as of that number, except for what it rejected. A change therefore costs the size of the change for
// each client that may see it, a slow client only gets a bigger next delta, and the memory for a client
// does not grow with the configuration.
//
// It must not decide what a resource means, whether a node's report about a pod is true, or what a
// status says: it hands reports, rejections and counts to whoever does. It imports nothing else of the
// control plane.
package distribute
