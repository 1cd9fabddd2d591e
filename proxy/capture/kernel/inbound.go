package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/rules"
)

// inbound are the handles of what refuses and counts callers in one family's table.
//
// The chain input sends packets for strict ports to the chain strict, and first packets for counted ports to
// the chain counted. Who gets in stands in sets, so that a proxy that comes or goes, or a pod of an allowed
// ServiceAccount, costs one element.
type inbound struct {
	input, strict, counted *nftables.Chain

	strictPorts, countedPorts *nftables.Set
	admitted                  *nftables.Set
	// allowed hold ports with intervals of addresses. One of the two is in use: while a change cannot be made
	// in a set of intervals without an overlap, the other holds the new ones.
	allowed [2]*nftables.Set
	// plain counts the connections of callers that are let in, refused the attempts of those that are not.
	plain, refused counters
}

// The names of the sets of counters.
const (
	setPlain   = "plain"
	setRefused = "refused"
	suffixRest = "-rest"
)

// counters count connections by port and address, and by port alone those of addresses that have no room.
type counters struct{ callers, rest *nftables.Set }

func (o *objects) makeInbound(priority nftables.ChainPriority) {
	o.input = &nftables.Chain{
		Name: "input", Table: o.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(priority),
	}
	o.strict = &nftables.Chain{Name: "strict", Table: o.table}
	o.counted = &nftables.Chain{Name: "counted", Table: o.table}
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: o.table, ID: o.id(), Name: name, KeyType: key}
	}
	caller := nftables.MustConcatSetType(nftables.TypeInetService, o.family.address)
	o.strictPorts = set("strict-ports", nftables.TypeInetService)
	o.countedPorts = set("counted-ports", nftables.TypeInetService)
	o.admitted = set("admitted", o.family.address)
	for i, name := range []string{"allowed0", "allowed1"} {
		o.allowed[i] = set(name, caller)
		o.allowed[i].Concatenation, o.allowed[i].Interval = true, true
	}
	for c, name := range map[*counters]string{&o.plain: setPlain, &o.refused: setRefused} {
		c.callers, c.rest = set(name, caller), set(name+suffixRest, nftables.TypeInetService)
		c.callers.Concatenation = true
		for _, s := range []*nftables.Set{c.callers, c.rest} {
			s.Dynamic, s.HasTimeout, s.Timeout, s.Size = true, true, countersLifetime, countersSize
		}
	}
}

// addInbound makes everything for callers but what refuses them.
func (o *objects) addInbound(c *nftables.Conn, want *rules.Inbound) error {
	for _, set := range []*nftables.Set{
		o.strictPorts, o.countedPorts, o.admitted, o.allowed[0], o.allowed[1],
		o.plain.callers, o.plain.rest, o.refused.callers, o.refused.rest,
	} {
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
	}
	for _, chain := range []*nftables.Chain{o.strict, o.counted} {
		c.AddChain(chain)
	}
	for _, rule := range o.strictRules() {
		c.AddRule(&nftables.Rule{Table: o.table, Chain: o.strict, Exprs: rule})
	}
	for _, rule := range o.countedRules() {
		c.AddRule(&nftables.Rule{Table: o.table, Chain: o.counted, Exprs: rule})
	}
	c.AddChain(o.input)
	o.addInput(c, false)
	if err := o.admit(c, want.Admitted, o.allowed[0], want.Allowed); err != nil {
		return err
	}
	return addElements(c, o.countedPorts, portKeys(want.Counted))
}

// refuse puts in force what refuses callers, after those to be let in are known: the kernel brings rules,
// elements and intervals of one batch into force one after the other.
func (o *objects) refuse(c *nftables.Conn, want *rules.Inbound) error {
	if want.Closed {
		c.FlushChain(o.input)
		o.addInput(c, true)
	}
	return addElements(c, o.strictPorts, portKeys(want.Strict))
}

// The steps of a change follow each other in batches of their own, so that at no moment anybody is refused
// whom both the old and the new state let in, and nobody let in whom both refuse: first who gets in, then
// which ports are strict, then everything that opens, then who no longer gets in. inUse is which of the sets of
// allowed callers is in use, before and after.
func (o *objects) inboundSteps(change rules.InboundChange, want *rules.Inbound, inUse int) (steps []step, inUseAfter int) {
	before, after := inUse, inUse
	if change.Overlap {
		after = 1 - before
		change.Allow = want.Allowed
	}
	return []step{
		unless(len(change.Admit)+len(change.Allow) == 0, func(c *nftables.Conn) error {
			return o.admit(c, change.Admit, o.allowed[after], change.Allow)
		}),
		unless(len(change.Close) == 0, func(c *nftables.Conn) error {
			return addElements(c, o.strictPorts, portKeys(change.Close))
		}),
		unless(len(change.Count)+len(change.Uncount)+len(change.Open) == 0 && !change.Closed, func(c *nftables.Conn) error {
			if change.Closed {
				c.FlushChain(o.input)
				o.addInput(c, want.Closed)
			}
			if err := addElements(c, o.countedPorts, portKeys(change.Count)); err != nil {
				return err
			}
			if err := deleteElements(c, o.countedPorts, portKeys(change.Uncount)); err != nil {
				return err
			}
			return deleteElements(c, o.strictPorts, portKeys(change.Open))
		}),
		unless(len(change.Dismiss)+len(change.Disallow) == 0, func(c *nftables.Conn) error {
			if err := deleteElements(c, o.admitted, addressKeys(change.Dismiss)); err != nil {
				return err
			}
			if change.Overlap {
				c.FlushSet(o.allowed[before])
				return nil
			}
			return deleteElements(c, o.allowed[before], allowanceKeys(change.Disallow))
		}),
	}, after
}

func (o *objects) admit(c *nftables.Conn, admitted []netip.Addr, set *nftables.Set, allowed []rules.Allowance) error {
	if err := addElements(c, o.admitted, addressKeys(admitted)); err != nil {
		return err
	}
	return addElements(c, set, allowanceKeys(allowed))
}

// addInput fills the chain input.
func (o *objects) addInput(c *nftables.Conn, closed bool) {
	for _, rule := range o.inputRules(closed) {
		c.AddRule(&nftables.Rule{Table: o.table, Chain: o.input, Exprs: rule})
	}
}

func (o *objects) inputRules(closed bool) [][]expr.Any {
	loopback := make([]byte, unix.IFNAMSIZ)
	copy(loopback, "lo")
	pass := [][]expr.Any{
		{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: registerKey},
			&expr.Cmp{Op: expr.CmpOpEq, Register: registerKey, Data: loopback},
			&expr.Verdict{Kind: expr.VerdictReturn},
		},
		{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: registerKey},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: registerKey, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Verdict{Kind: expr.VerdictReturn},
		},
	}
	if closed {
		// Nobody can say on which side a connection began that connection tracking has not seen; the first
		// packet of one says it itself.
		return append(pass, slices.Concat(firstPacket(), o.sourceIsNot(o.admitted), []expr.Any{reset()}))
	}
	to := func(ports *nftables.Set, chain *nftables.Chain) []expr.Any {
		return []expr.Any{
			loadPort(),
			&expr.Lookup{SourceRegister: registerKey, SetID: ports.ID, SetName: ports.Name},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name},
		}
	}
	return append(pass, to(o.strictPorts, o.strict), slices.Concat(stateNew(), to(o.countedPorts, o.counted)))
}

// strictRules refuse every packet of a connection that a caller has opened who does not get in, the first as
// well as the later ones. What the pod itself has opened from the same port goes on.
func (o *objects) strictRules() [][]expr.Any {
	return slices.Concat(
		[][]expr.Any{{
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: registerKey},
			&expr.Cmp{Op: expr.CmpOpEq, Register: registerKey, Data: []byte{1}},
			&expr.Verdict{Kind: expr.VerdictReturn},
		}},
		o.permitted(),
		[][]expr.Any{
			// What belongs to no connection may be a late packet of one that the pod has opened: a reset would
			// end it.
			append(state(expr.CtStateBitINVALID), &expr.Verdict{Kind: expr.VerdictDrop}),
			append(o.count(o.refused.callers), reset()),
			append(o.count(o.refused.rest), reset()),
			{reset()},
		})
}

// countedRules count first packets of callers who would not get in if the port were strict.
func (o *objects) countedRules() [][]expr.Any {
	return append(o.permitted(),
		append(o.count(o.plain.callers), &expr.Verdict{Kind: expr.VerdictReturn}),
		o.count(o.plain.rest))
}

// permitted let those in who get in at a strict port.
func (o *objects) permitted() [][]expr.Any {
	in := func(set *nftables.Set, load ...expr.Any) []expr.Any {
		return append(load,
			&expr.Lookup{SourceRegister: registerKey, SetID: set.ID, SetName: set.Name},
			&expr.Verdict{Kind: expr.VerdictReturn})
	}
	return [][]expr.Any{
		in(o.admitted, o.loadSource(registerKey)),
		in(o.allowed[0], loadPort(), o.loadSource(registerKey+1)),
		in(o.allowed[1], loadPort(), o.loadSource(registerKey+1)),
	}
}

// count adds one to an element of a set of counters. When the set is full the rule ends there.
func (o *objects) count(set *nftables.Set) []expr.Any {
	load := []expr.Any{loadPort()}
	if set.Concatenation {
		load = append(load, o.loadSource(registerKey+1))
	}
	return append(load, &expr.Dynset{
		SrcRegKey: registerKey, SetID: set.ID, SetName: set.Name, Operation: unix.NFT_DYNSET_OP_UPDATE,
		Exprs: []expr.Any{&expr.Counter{}},
	})
}

func (o *objects) sourceIsNot(set *nftables.Set) []expr.Any {
	return []expr.Any{
		o.loadSource(registerKey),
		&expr.Lookup{SourceRegister: registerKey, SetID: set.ID, SetName: set.Name, Invert: true},
	}
}

func (o *objects) loadSource(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: o.family.source, Len: o.family.bytes}
}

func loadPort() expr.Any {
	return &expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func reset() expr.Any { return &expr.Reject{Type: unix.NFT_REJECT_TCP_RST} }

// Where the flags of a TCP header are, and those that tell the first packet of a connection from its answer.
const (
	offsetFlags = 13
	flagSYN     = 0x02
	flagACK     = 0x10
)

func firstPacket() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseTransportHeader, Offset: offsetFlags, Len: 1},
		&expr.Bitwise{SourceRegister: registerKey, DestRegister: registerKey, Len: 1, Mask: []byte{flagSYN | flagACK}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: registerKey, Data: []byte{flagSYN}},
	}
}

func portKeys(ports []uint16) []nftables.SetElement {
	out := make([]nftables.SetElement, len(ports))
	for i, port := range ports {
		out[i].Key = binaryutil.BigEndian.PutUint16(port)
	}
	return out
}

func addressKeys(addresses []netip.Addr) []nftables.SetElement {
	out := make([]nftables.SetElement, len(addresses))
	for i, address := range addresses {
		out[i].Key = address.AsSlice()
	}
	return out
}

func allowanceKeys(allowed []rules.Allowance) []nftables.SetElement {
	out := make([]nftables.SetElement, len(allowed))
	for i, a := range allowed {
		out[i].Key = callerKey(a.Port, a.From.Addr())
		out[i].KeyEnd = callerKey(a.Port, lastOf(a.From))
	}
	return out
}

// callerKey is a port and an address as concatenated keys have them: each part padded to four bytes.
func callerKey(port uint16, address netip.Addr) []byte {
	return append(binary.BigEndian.AppendUint16(nil, port), append([]byte{0, 0}, address.AsSlice()...)...)
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func addElements(c *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	return inChunks(elements, func(chunk []nftables.SetElement) error { return c.SetAddElements(set, chunk) })
}

func deleteElements(c *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	return inChunks(elements, func(chunk []nftables.SetElement) error { return c.SetDeleteElements(set, chunk) })
}

func inChunks(elements []nftables.SetElement, send func([]nftables.SetElement) error) error {
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		if err := send(chunk); err != nil {
			return err
		}
	}
	return nil
}
