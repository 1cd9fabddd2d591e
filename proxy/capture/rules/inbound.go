package rules

import (
	"cmp"
	"net/netip"
	"slices"
)

// Inbound says who may open connections to a pod, and whose are counted. All lists are sorted and hold
// nothing twice.
type Inbound struct {
	// Closed refuses new connections to every port from everybody but Admitted, because it is not known
	// yet which ports are strict. What is open stays open. There are no Strict and no Counted ports then.
	Closed bool
	// Strict ports are for Admitted and Allowed alone, and end what others have opened before. At Counted
	// ports others get in. Of both it is counted how often others have tried.
	Strict, Counted []uint16
	Admitted        []netip.Addr
	Allowed         []Allowance
}

// Allowance lets the addresses of a prefix in at one port. No prefix of a port contains another.
type Allowance struct {
	Port uint16
	From netip.Prefix
}

func (a Allowance) compare(b Allowance) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), a.From.Addr().Compare(b.From.Addr()), cmp.Compare(a.From.Bits(), b.From.Bits()))
}

// Refuses tells that a port is strict and does not let a caller in. Whether the caller comes over the
// loopback device, which is never refused, it does not know.
func (t Tables) Refuses(port uint16, caller netip.Addr) bool {
	caller = caller.Unmap()
	in := t.IPv4.Inbound
	if caller.Is6() {
		in = t.IPv6.Inbound
	}
	if in == nil {
		return false
	}
	if _, strict := slices.BinarySearch(in.Strict, port); !strict {
		return false
	}
	if _, admitted := slices.BinarySearchFunc(in.Admitted, caller, netip.Addr.Compare); admitted {
		return false
	}
	return !slices.ContainsFunc(in.Allowed, func(a Allowance) bool { return a.Port == port && a.From.Contains(caller) })
}

func (i *Inbound) equal(o *Inbound) bool {
	if i == nil || o == nil {
		return i == o
	}
	return i.Closed == o.Closed && slices.Equal(i.Strict, o.Strict) && slices.Equal(i.Counted, o.Counted) &&
		slices.Equal(i.Admitted, o.Admitted) && slices.Equal(i.Allowed, o.Allowed)
}

// inbound builds the part for callers of one family; nil when nobody is to be refused or counted.
func inbound(pod Pod, ofFamily func(netip.Addr) bool) *Inbound {
	closed := pod.Closed || pod.Capture != nil && pod.Capture.Strict && !pod.Proxy
	switch {
	case pod.Inbound == nil && !closed:
		return nil
	case pod.Inbound != nil && len(pod.Inbound.Ports) == 0:
		return nil
	}
	admitted := slices.Concat(pod.Addresses, pod.Node)
	if pod.Capture != nil && (pod.Inbound == nil || !pod.Inbound.Alone) {
		admitted = append(admitted, pod.Capture.Admitted...)
	}
	in := &Inbound{Closed: pod.Inbound == nil, Admitted: selected(admitted, ofFamily)}
	if pod.Inbound == nil {
		return in
	}
	for _, p := range pod.Inbound.Ports {
		if p.Strict {
			in.Strict = append(in.Strict, p.Port)
		}
		for _, prefix := range p.Allowed {
			if prefix = unmapped(prefix); ofFamily(prefix.Addr()) {
				in.Allowed = append(in.Allowed, Allowance{Port: p.Port, From: prefix})
			}
		}
	}
	in.Strict = unique(in.Strict)
	for _, p := range pod.Inbound.Ports {
		if _, strict := slices.BinarySearch(in.Strict, p.Port); !strict {
			in.Counted = append(in.Counted, p.Port)
		}
	}
	in.Counted = unique(in.Counted)
	in.Allowed = outermost(in.Allowed)
	return in
}

// unmapped returns a prefix of IPv4 addresses in their IPv6 form in its own, and any without host bits.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func unique(ports []uint16) []uint16 {
	slices.Sort(ports)
	return slices.Compact(ports)
}

// outermost drops what another allowance contains: the kernel's sets of intervals take no overlap.
func outermost(all []Allowance) []Allowance {
	slices.SortFunc(all, Allowance.compare)
	var out []Allowance
	for _, a := range all {
		// What contains a prefix begins at the same address or before it, and nothing in between ends
		// behind it.
		if last := len(out) - 1; last >= 0 && out[last].Port == a.Port && out[last].From.Contains(a.From.Addr()) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// InboundChange is the least that brings one Inbound into another.
type InboundChange struct {
	Admit, Dismiss  []netip.Addr
	Allow, Disallow []Allowance
	Close, Open     []uint16 // strict ports
	Count, Uncount  []uint16
	// Overlap tells that one of Allow contains one of Disallow, or the other way round: they cannot be
	// together in one set of intervals.
	Overlap bool
	// Closed tells that Inbound.Closed changes.
	Closed bool
}

// None tells that there is nothing to do.
func (c InboundChange) None() bool {
	return !c.Closed && len(c.Admit)+len(c.Dismiss)+len(c.Allow)+len(c.Disallow)+
		len(c.Close)+len(c.Open)+len(c.Count)+len(c.Uncount) == 0
}

// Ends tells that somebody who was let in before no longer is.
func (c InboundChange) Ends() bool { return len(c.Close)+len(c.Dismiss)+len(c.Disallow) > 0 }

// diffInbound compares two that are there.
func diffInbound(have, want *Inbound) InboundChange {
	change := InboundChange{
		Admit:    surplus(want.Admitted, have.Admitted, netip.Addr.Compare),
		Dismiss:  surplus(have.Admitted, want.Admitted, netip.Addr.Compare),
		Allow:    surplus(want.Allowed, have.Allowed, Allowance.compare),
		Disallow: surplus(have.Allowed, want.Allowed, Allowance.compare),
		Close:    surplus(want.Strict, have.Strict, cmp.Compare[uint16]),
		Open:     surplus(have.Strict, want.Strict, cmp.Compare[uint16]),
		Count:    surplus(want.Counted, have.Counted, cmp.Compare[uint16]),
		Uncount:  surplus(have.Counted, want.Counted, cmp.Compare[uint16]),
		Closed:   have.Closed != want.Closed,
	}
	change.Overlap = slices.ContainsFunc(change.Allow, func(a Allowance) bool {
		return slices.ContainsFunc(change.Disallow, func(d Allowance) bool { return a.Port == d.Port && a.From.Overlaps(d.From) })
	})
	return change
}

// surplus returns what the sorted list a has and the sorted list b has not.
func surplus[T any](a, b []T, compare func(T, T) int) []T {
	var out []T
	for _, v := range a {
		if _, found := slices.BinarySearchFunc(b, v, compare); !found {
			out = append(out, v)
		}
	}
	return out
}
