package compile

import (
	"net/netip"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// String is how messages name an authorization.
func (a *authorization) String() string {
	return "MeshAuthorization " + namespacedName(a.object).String()
}

// isFor tells that what is enforced is for a Service port.
func (a *authorization) isFor(port ServicePort) bool {
	return a.content.Namespace == port.Namespace && isFor(a.content, port.Service, port.Port)
}

// unauthenticated tells what a policy means for callers whom the mesh does not know, on a port of a Service:
// the networks that it lets in and those that it refuses. Such callers reach no proxy, so that nothing but their
// address is known. Only a source that says so lets them in. A Deny rule is for them unless it asks for an
// identity, and whatever it asks of requests, since those might be made.
func (a *authorization) unauthenticated(port uint16) (let, refused []netip.Prefix) {
	for i := range a.content.Rules {
		rule := &a.content.Rules[i]
		if !concerns(rule.To, port) {
			continue
		}
		if a.content.Action == wire.AuthorizationDeny {
			refused = append(refused, denied(rule.From)...)
			continue
		}
		for j := range rule.From {
			if from := &rule.From[j]; from.Unauthenticated {
				let = append(let, networks(from.IPBlocks)...)
			}
		}
	}
	return let, refused
}

func concerns(to []wire.AuthorizationOperation, port uint16) bool {
	return len(to) == 0 || slices.ContainsFunc(to, func(o wire.AuthorizationOperation) bool {
		return len(o.Ports) == 0 || slices.Contains(o.Ports, port)
	})
}

func denied(from []wire.AuthorizationSource) []netip.Prefix {
	if len(from) == 0 {
		return networks(nil)
	}
	var out []netip.Prefix
	for i := range from {
		asksWho := len(from[i].ServiceAccounts) > 0 || len(from[i].Namespaces) > 0 || len(from[i].SPIFFE) > 0
		if !asksWho {
			out = append(out, networks(from[i].IPBlocks)...)
		}
	}
	return out
}

// networks are those of blocks, or all there are. Blocks at fault are none.
func networks(blocks []wire.IPBlock) []netip.Prefix {
	if len(blocks) == 0 {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	var out []netip.Prefix
	for _, block := range blocks {
		network, err := netip.ParsePrefix(block.CIDR)
		if err != nil {
			continue
		}
		var except []netip.Prefix
		for _, text := range block.Except {
			if part, err := netip.ParsePrefix(text); err == nil {
				except = append(except, part)
			}
		}
		out = append(out, without([]netip.Prefix{network.Masked()}, except)...)
	}
	return out
}
