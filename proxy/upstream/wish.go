package upstream

import (
	"net/netip"

	"weft.dev/weft/proxy/wire"
)

// Wish is what one try of a request asks of the endpoint that is chosen for it. The zero Wish asks for
// nothing. A wish never leaves a request without an endpoint.
type Wish struct {
	// Avoid are endpoints that earlier tries ended at; they are used only when nothing better is left.
	Avoid []netip.AddrPort
	// Prefer is an endpoint that is taken whatever the algorithm, as long as it is in use for the Backend,
	// accepts connections and is not in Avoid. A terminating one keeps its sessions for as long as it
	// serves. Not valid means none. It says nothing about the proxies of the hop.
	Prefer netip.AddrPort
	// Hash is what ConsistentHash chooses by, if Hashed: that of the part of the request that HashKey names.
	Hash   uint64
	Hashed bool
	// Zone and Node are where the client is; empty if that is not known. The hop has its own idea of near:
	// the zone of this proxy.
	Zone, Node string

	// GRPC and Upgrade say what kind of request it is: the first shares its connection with others, the
	// second has one for itself whatever the Backend's protocol is. They matter to limits of connections.
	GRPC, Upgrade bool

	// limits are those in force, nil if there are none; exclusive tells that the request needs a connection
	// for itself.
	limits    *limits
	exclusive bool
	// service is that of the Backend; its endpoints that are out of use come last.
	service *service
}

// HashKey returns what a request to a Backend is hashed by, nil if it need not be hashed: because the
// Backend is not balanced that way, is not known, or is reached over the hop, whose other end hashes.
func (v *View) HashKey(backend string) *wire.HashKey {
	if t, ok := v.targets[backend]; ok {
		return v.set.usable(t).hashKey
	}
	return nil
}

// Limited tells whether a request to a Backend may have to wait for others.
func (v *View) Limited(backend string) bool {
	t, ok := v.targets[backend]
	return ok && v.set.usable(t).service != nil && t.service.limits.Load() != nil
}

// Addresses returns the endpoints of a Backend that this proxy itself picks from, in the order of the
// Endpoints resource: those that Wish.Prefer can name. There are none for a Backend that is not known or
// that is reached over the hop.
func (v *View) Addresses(backend string) []netip.AddrPort {
	t, ok := v.targets[backend]
	endpoints := v.resources.Endpoints[backend]
	switch {
	case !ok:
		return nil
	case t.own != nil:
		return []netip.AddrPort{v.resources.Own[backend]}
	case v.set.hops(t.backend, t.endpoints) || endpoints == nil:
		return nil
	}
	addresses := make([]netip.AddrPort, len(endpoints.Endpoints))
	for i, e := range endpoints.Endpoints {
		addresses[i] = e.Address
	}
	return addresses
}
