// Package rules says which nftables rules a pod's own network namespace shall hold: it turns what the
// operator captures, the proxies that live and the pod's place into one value, and compares two such
// values. It is pure; package kernel brings the value into force.
package rules

import (
	"maps"
	"net/netip"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// Tables is everything Weft holds in one network namespace. The zero value asks for nothing.
type Tables struct {
	// IPv4 and IPv6 are the tables "weft" of the families ip and ip6.
	IPv4, IPv6 Table
}

// Table is the table "weft" of one family.
type Table struct {
	// Capture asks for the chain that sends connections to Ports over to Proxies, to the port that is given for each: a
	// destination number, or that of the listener of the pod's own proxy. Without Ports or
	// without Proxies the chain is there and captures nothing; it refuses what is Refused.
	Capture bool
	Ports   map[netip.AddrPort]uint16
	// Proxies share the captured connections evenly; sorted.
	Proxies []netip.Addr
	// Refused are the destinations whose connections are reset while there are no Proxies, sorted: a
	// route decides about them, and nobody is there to apply it.
	Refused []netip.AddrPort
	// Redirect brings every destination number to the one listener of a proxy.
	Redirect bool
	// Inbound refuses and counts callers; nil lets everybody in unseen.
	Inbound *Inbound
}

// Empty tells that nothing is asked of the family.
func (t Table) Empty() bool { return !t.Capture && !t.Redirect && t.Inbound == nil }

// Captures tells that new connections go to a proxy or are refused for want of one.
func (t Table) Captures() bool {
	return t.Capture && len(t.Ports) > 0 && len(t.Proxies)+len(t.Refused) > 0
}

// Equal compares two tables.
func (t Table) Equal(o Table) bool {
	return t.Capture == o.Capture && t.Redirect == o.Redirect && maps.Equal(t.Ports, o.Ports) &&
		slices.Equal(t.Proxies, o.Proxies) && slices.Equal(t.Refused, o.Refused) && t.Inbound.equal(o.Inbound)
}

// Equal compares two sets of tables.
func (t Tables) Equal(o Tables) bool {
	return t.IPv4.Equal(o.IPv4) && t.IPv6.Equal(o.IPv6)
}

// Pod is what the rules of one pod depend on.
type Pod struct {
	// Addresses are the pod's own. A family of which it has none gets no rules; without any address
	// both do.
	Addresses []netip.Addr
	// Proxy marks one of Weft's own proxies: it is never captured, and nothing closes it but an Inbound.
	Proxy bool
	// OptedOut keeps the pod's own connections from being captured.
	OptedOut bool
	// Sidecar tells that the pod has a proxy of its own, which gets its connections whether it lives or not.
	Sidecar bool
	// Capture is its namespace's; nil when the namespace is not enrolled.
	Capture *wire.Capture
	// Inbound is what is known of its ports; nil while nothing is.
	Inbound *wire.Inbound
	// Closed tells that some port of the namespace was strict when it was last heard of.
	Closed bool
	// Node are the addresses of its node, from which probes come.
	Node []netip.Addr
}

// Build returns the tables for a pod on a node in the given zone. live tells whether a proxy at an
// address accepts connections as far as this node knows.
func Build(pod Pod, zone string, live func(netip.Addr) bool) Tables {
	return Tables{
		IPv4: build(pod, zone, live, netip.Addr.Is4),
		IPv6: build(pod, zone, live, netip.Addr.Is6),
	}
}

// build returns the table of the family that ofFamily accepts.
func build(pod Pod, zone string, live, ofFamily func(netip.Addr) bool) Table {
	own := func(a netip.Addr) bool { return ofFamily(a.Unmap()) }
	if len(pod.Addresses) > 0 && !slices.ContainsFunc(pod.Addresses, own) {
		return Table{}
	}
	table := Table{Redirect: pod.Proxy}
	switch {
	case pod.Proxy, pod.OptedOut, pod.Capture == nil:
	case pod.Sidecar:
		table = beside(pod, ofFamily)
	default:
		table = captured(pod.Capture, zone, live, ofFamily)
	}
	table.Inbound = inbound(pod, ofFamily)
	return table
}

// beside builds the capture part of one family for a pod that has a proxy of its own. Both ends of a captured connection
// are in the pod, where an address is translated once: so the proxy learns the destination from the address that the
// client has used, and has no need of a number.
func beside(pod Pod, ofFamily func(netip.Addr) bool) Table {
	table := Table{Capture: true, Ports: map[netip.AddrPort]uint16{}, Proxies: selected(pod.Addresses, ofFamily)}
	for _, p := range pod.Capture.Ports {
		if address := p.Address.Unmap(); ofFamily(address) {
			table.Ports[netip.AddrPortFrom(address, p.Port)] = wire.PortCaptured
		}
	}
	if len(table.Proxies) == 0 {
		// Its address is not known. Nobody else is to get what is for its proxy.
		for at := range table.Ports {
			table.Refused = append(table.Refused, at)
		}
		slices.SortFunc(table.Refused, netip.AddrPort.Compare)
	}
	return table
}

// captured builds the capture part of one family.
func captured(c *wire.Capture, zone string, live, ofFamily func(netip.Addr) bool) Table {
	table := Table{Capture: true, Ports: map[netip.AddrPort]uint16{}}
	for _, p := range c.Ports {
		if address := p.Address.Unmap(); ofFamily(address) {
			table.Ports[netip.AddrPortFrom(address, p.Port)] = p.Number
		}
	}
	var near, all []netip.Addr
	for _, proxy := range c.Proxies {
		for _, address := range proxy.Addresses {
			address = address.Unmap()
			if !ofFamily(address) || !live(address) {
				continue
			}
			all = append(all, address)
			if zone != "" && proxy.Zone == zone {
				near = append(near, address)
			}
		}
	}
	table.Proxies = sorted(all)
	if len(near) > 0 {
		table.Proxies = sorted(near)
	}
	if len(table.Proxies) == 0 {
		table.Refused = refused(c.Ports, ofFamily)
	}
	return table
}

func refused(ports []wire.CapturedPort, ofFamily func(netip.Addr) bool) []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range ports {
		if address := p.Address.Unmap(); p.Routed && ofFamily(address) {
			out = append(out, netip.AddrPortFrom(address, p.Port))
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// selected returns the addresses of a family, sorted.
func selected(addresses []netip.Addr, ofFamily func(netip.Addr) bool) []netip.Addr {
	var out []netip.Addr
	for _, address := range addresses {
		if address = address.Unmap(); ofFamily(address) {
			out = append(out, address)
		}
	}
	return sorted(out)
}

// sorted returns the addresses unmapped, in order and once each, in memory of its own.
func sorted(addresses []netip.Addr) []netip.Addr {
	if len(addresses) == 0 {
		return nil
	}
	out := make([]netip.Addr, len(addresses))
	for i, address := range addresses {
		out[i] = address.Unmap()
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
