package upstream

import (
	"net/netip"
	"slices"
	"time"
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
}

// Addresses returns the endpoints of a Backend that this proxy itself picks from, in the order of the
// Endpoints resource: those that Wish.Prefer can name. There are none for a Backend that is not known or
// that is reached over the hop.
func (v *View) Addresses(backend string) []netip.AddrPort {
	t, ok := v.targets[backend]
	endpoints := v.resources.Endpoints[backend]
	if !ok || v.set.hops(t.backend) || endpoints == nil {
		return nil
	}
	addresses := make([]netip.AddrPort, len(endpoints.Endpoints))
	for i, e := range endpoints.Endpoints {
		addresses[i] = e.Address
	}
	return addresses
}

// find returns the endpoint that a wish prefers, or nil if there is none that can be used.
func (g *group) find(wish *Wish, now time.Duration) *endpoint {
	if !wish.Prefer.IsValid() || slices.Contains(wish.Avoid, wish.Prefer) {
		return nil
	}
	for _, list := range [][]*endpoint{g.preferred, g.others} {
		for _, e := range list {
			if e.address == wish.Prefer && !e.refusing(now) {
				return e
			}
		}
	}
	return nil
}
