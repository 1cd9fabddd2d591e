package rules

import (
	"cmp"
	"net/netip"
	"slices"
)

// Port is one element of the map of captured ports.
type Port struct {
	Destination netip.AddrPort
	Number      uint16
}

// Change is the least that brings one table into another. Ports are sorted by destination.
type Change struct {
	// Rebuild asks to replace the whole table in one step, because its chains differ. The other
	// fields are empty then.
	Rebuild bool
	Remove  []Port
	Add     []Port
	// Proxies asks to replace the rule that chooses a proxy, or refuses for want of one.
	Proxies bool
	Inbound InboundChange
}

// None tells that the tables are equal.
func (c Change) None() bool {
	return !c.Rebuild && !c.Proxies && c.Inbound.None() && len(c.Remove) == 0 && len(c.Add) == 0
}

// Diff compares a table in force with a wanted one.
func Diff(have, want Table) Change {
	if have.Capture != want.Capture || have.Redirect != want.Redirect || (have.Inbound == nil) != (want.Inbound == nil) {
		return Change{Rebuild: true}
	}
	change := Change{
		Remove:  missing(have.Ports, want.Ports),
		Add:     missing(want.Ports, have.Ports),
		Proxies: !slices.Equal(have.Proxies, want.Proxies) || !slices.Equal(have.Refused, want.Refused),
	}
	if want.Inbound != nil {
		change.Inbound = diffInbound(have.Inbound, want.Inbound)
	}
	return change
}

// missing returns the elements of a that b does not hold with the same number.
func missing(a, b map[netip.AddrPort]uint16) []Port {
	var out []Port
	for destination, number := range a {
		if other, ok := b[destination]; !ok || other != number {
			out = append(out, Port{Destination: destination, Number: number})
		}
	}
	slices.SortFunc(out, func(x, y Port) int {
		return cmp.Or(x.Destination.Compare(y.Destination), cmp.Compare(x.Number, y.Number))
	})
	return out
}

// All returns every element of a table's map of ports, sorted by destination.
func (t Table) All() []Port { return missing(t.Ports, nil) }

// Keep returns want with the capture chain kept when the table in force has one. Without it the kernel
// would stop translating, and the connections that are established would break; so it stays, without
// effect on new connections, until the pod ends.
func Keep(have, want Tables) Tables {
	want.IPv4 = keep(have.IPv4, want.IPv4)
	want.IPv6 = keep(have.IPv6, want.IPv6)
	return want
}

func keep(have, want Table) Table {
	want.Capture = want.Capture || have.Capture
	return want
}
