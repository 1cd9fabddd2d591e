package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
)

// tableName is the name of every table that Weft makes. handoverName is that of a second one that is there
// while the first is replaced: the kernel puts a new chain before an old one of the same priority, so that
// a packet on its way at the moment of the exchange can meet the new chain before it is in force and the
// old one when it is so no more. The second table's chains come right after and miss nothing.
const (
	tableName    = "weft"
	handoverName = "weft-handover"
)

// Lifetime is how long capture outlives the last Refresh.
const Lifetime = time.Minute

// elementsPerMessage keeps the list of elements of one message under the 64 KiB that a netlink
// attribute can hold, for IPv6 keys too.
const elementsPerMessage = 400

// The capture chain runs before every other destination translation of the pod (-100), so that a
// pod's own rules cannot hide a Service from the mesh.
const capturePriority nftables.ChainPriority = -110

// family holds what differs between IPv4 and IPv6.
type family struct {
	number       nftables.TableFamily
	address      nftables.SetDatatype
	source       uint32 // offset of the source address in the network header
	destination  uint32
	bytes        uint32
	keyRegisters uint32 // 32-bit registers that address and port take
}

var (
	familyIPv4 = family{nftables.TableFamilyIPv4, nftables.TypeIPAddr, 12, 16, 4, 2}
	familyIPv6 = family{nftables.TableFamilyIPv6, nftables.TypeIP6Addr, 8, 24, 16, 5}
)

// Registers of 32 bits; an IPv6 address takes four of them.
const (
	registerKey    = unix.NFT_REG32_00     // address and port looked up, up to five registers
	registerNumber = unix.NFT_REG32_00 + 5 // destination number
	registerRandom = unix.NFT_REG32_00 + 6
	registerProxy  = unix.NFT_REG32_00 + 8 // up to four registers
)

// objects are the handles of one family's table; making them touches no kernel.
type objects struct {
	family  family
	table   *nftables.Table
	output  *nftables.Chain
	capture *nftables.Chain
	// redirect is a proxy's.
	redirect *nftables.Chain
	ports    *nftables.Set
	inbound
	// alive are two sets with the one element "tcp" that expires. Refreshing one never touches the
	// other, so that there is no instant at which neither holds it, on any kernel.
	alive [2]*nftables.Set
	// lastID is the number given last to a set, by which messages of one batch refer to it. The
	// library would take numbers from a counter that is not safe for several goroutines.
	lastID uint32
}

// id returns a number for a set that no other set of the batch has, in either family.
func (o *objects) id() uint32 {
	o.lastID++
	return uint32(o.family.number)<<24 | o.lastID
}

func newObjects(f family, lifetime time.Duration) *objects {
	return namedObjects(f, lifetime, tableName, 0)
}

// namedObjects are the objects of a table whose chains come later than others of their kind.
func namedObjects(f family, lifetime time.Duration, name string, later nftables.ChainPriority) *objects {
	o := &objects{family: f, table: &nftables.Table{Family: f.number, Name: name}}
	o.output = &nftables.Chain{
		Name: "output", Table: o.table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(capturePriority + later),
	}
	o.capture = &nftables.Chain{Name: "capture", Table: o.table}
	o.redirect = &nftables.Chain{
		Name: "prerouting", Table: o.table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + later),
	}
	o.ports = &nftables.Set{
		Table: o.table, ID: o.id(), Name: "ports", IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(f.address, nftables.TypeInetService),
		DataType: nftables.TypeInetService,
	}
	for i, name := range []string{"alive0", "alive1"} {
		o.alive[i] = &nftables.Set{
			Table: o.table, ID: o.id(), Name: name, KeyType: nftables.TypeInetProto, HasTimeout: true, Timeout: lifetime,
		}
	}
	o.makeInbound(*nftables.ChainPriorityFilter + later)
	return o
}

// rebuild replaces the whole table, but for what refuses callers. The batch removes the old one only if
// there is one: adding a table that exists changes nothing.
func (o *objects) rebuild(c *nftables.Conn, want rules.Table) error {
	o.remove(c)
	if want.Empty() {
		return nil
	}
	c.AddTable(o.table)
	if want.Capture {
		if err := o.addCapture(c, want); err != nil {
			return err
		}
	}
	if want.Redirect {
		c.AddChain(o.redirect)
		c.AddRule(&nftables.Rule{Table: o.table, Chain: o.redirect, Exprs: redirect()})
	}
	if want.Inbound != nil {
		return o.addInbound(c, want.Inbound)
	}
	return nil
}

// remove takes the table away if there is one.
func (o *objects) remove(c *nftables.Conn) { removeTable(c, o.table) }

func (o *objects) addCapture(c *nftables.Conn, want rules.Table) error {
	if err := c.AddSet(o.ports, nil); err != nil {
		return err
	}
	if err := o.addPorts(c, want.All()); err != nil {
		return err
	}
	c.AddChain(o.capture)
	if err := o.addProxies(c, want); err != nil {
		return err
	}
	c.AddChain(o.output)
	for _, set := range o.alive {
		if err := c.AddSet(set, []nftables.SetElement{{Key: []byte{unix.IPPROTO_TCP}}}); err != nil {
			return err
		}
	}
	for _, rule := range o.outputRules() {
		c.AddRule(&nftables.Rule{Table: o.table, Chain: o.output, Exprs: rule})
	}
	return nil
}

func (o *objects) outputRules() [][]expr.Any {
	var out [][]expr.Any
	for _, set := range o.alive {
		// Every connection that comes here is new. Asking for it keeps connection tracking on while no
		// proxy is left in the capture chain: the kernel turns it off with the last rule that needs
		// it, and the connections that are established would lose their translation.
		out = append(out, slices.Concat([]expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: registerKey},
			&expr.Lookup{SourceRegister: registerKey, SetID: set.ID, SetName: set.Name},
		}, stateNew(), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: o.capture.Name}}))
	}
	return out
}

// change brings what captures from one content into another of the same shape.
func (o *objects) change(c *nftables.Conn, change rules.Change, want rules.Table) error {
	for chunk := range slices.Chunk(change.Remove, elementsPerMessage) {
		if err := c.SetDeleteElements(o.ports, o.elements(chunk, false)); err != nil {
			return err
		}
	}
	if err := o.addPorts(c, change.Add); err != nil {
		return err
	}
	if change.Proxies {
		c.FlushChain(o.capture)
		return o.addProxies(c, want)
	}
	return nil
}

// refresh starts the lifetime of one of the two sets anew.
func (o *objects) refresh(c *nftables.Conn, turn int) error {
	set := o.alive[turn%len(o.alive)]
	c.FlushSet(set)
	return c.SetAddElements(set, []nftables.SetElement{{Key: []byte{unix.IPPROTO_TCP}}})
}

func (o *objects) addPorts(c *nftables.Conn, ports []rules.Port) error {
	for chunk := range slices.Chunk(ports, elementsPerMessage) {
		if err := c.SetAddElements(o.ports, o.elements(chunk, true)); err != nil {
			return err
		}
	}
	return nil
}

func (o *objects) elements(ports []rules.Port, values bool) []nftables.SetElement {
	out := make([]nftables.SetElement, len(ports))
	for i, p := range ports {
		// Concatenated keys pad each part to four bytes.
		key := append(p.Destination.Addr().AsSlice(), 0, 0, 0, 0)
		binary.BigEndian.PutUint16(key[o.family.bytes:], p.Destination.Port())
		out[i].Key = key
		if values {
			out[i].Val = binaryutil.BigEndian.PutUint16(p.Number)
		}
	}
	return out
}

// addProxies fills the capture chain: the destination number of address and port, then one of the
// proxies at random. A miss in the first lookup ends the rule, and the connection goes its usual way.
func (o *objects) addProxies(c *nftables.Conn, want rules.Table) error {
	proxies := want.Proxies
	if len(proxies) == 0 {
		return o.addRefusal(c, want.Refused)
	}
	choice := &nftables.Set{
		Table: o.table, ID: o.id(), Name: "__map%d", Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: o.family.address,
	}
	elements := make([]nftables.SetElement, len(proxies))
	for i, proxy := range proxies {
		elements[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: proxy.AsSlice()}
	}
	if err := c.AddSet(choice, elements); err != nil {
		return err
	}
	c.AddRule(&nftables.Rule{Table: o.table, Chain: o.capture, Exprs: o.captureRule(len(proxies), choice)})
	return nil
}

// captureRule sends a connection to one of so many proxies.
func (o *objects) captureRule(proxies int, choice *nftables.Set) []expr.Any {
	return append(o.destination(),
		&expr.Lookup{SourceRegister: registerKey, DestRegister: registerNumber, IsDestRegSet: true, SetID: o.ports.ID, SetName: o.ports.Name},
		&expr.Numgen{Register: registerRandom, Modulus: uint32(proxies), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: registerRandom, DestRegister: registerProxy, IsDestRegSet: true, SetID: choice.ID, SetName: choice.Name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(o.family.number), RegAddrMin: registerProxy, RegProtoMin: registerNumber},
	)
}

func (o *objects) refusalRule(refused *nftables.Set) []expr.Any {
	return append(o.destination(), &expr.Lookup{SourceRegister: registerKey, SetID: refused.ID, SetName: refused.Name}, reset())
}

// addRefusal fills the capture chain while there is no proxy: connections that a route decides about
// are reset, so that nobody bypasses it.
func (o *objects) addRefusal(c *nftables.Conn, destinations []netip.AddrPort) error {
	// A set without a name cannot grow beyond the message that makes it.
	for chunk := range slices.Chunk(destinations, elementsPerMessage) {
		refused := &nftables.Set{
			Table: o.table, ID: o.id(), Name: "__set%d", Anonymous: true, Constant: true, Concatenation: true,
			KeyType: nftables.MustConcatSetType(o.family.address, nftables.TypeInetService),
		}
		ports := make([]rules.Port, len(chunk))
		for i, d := range chunk {
			ports[i].Destination = d
		}
		if err := c.AddSet(refused, o.elements(ports, false)); err != nil {
			return err
		}
		c.AddRule(&nftables.Rule{Table: o.table, Chain: o.capture, Exprs: o.refusalRule(refused)})
	}
	return nil
}

// captureRules are the rules of the capture chain.
func (o *objects) captureRules(want rules.Table) [][]expr.Any {
	unnamed := &nftables.Set{Name: "__set%d"}
	if len(want.Proxies) > 0 {
		return [][]expr.Any{o.captureRule(len(want.Proxies), unnamed)}
	}
	return slices.Repeat([][]expr.Any{o.refusalRule(unnamed)}, (len(want.Refused)+elementsPerMessage-1)/elementsPerMessage)
}

// destination loads the address and port that a connection is made to, as the maps' keys have it.
func (o *objects) destination() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseNetworkHeader, Offset: o.family.destination, Len: o.family.bytes},
		&expr.Payload{DestRegister: registerKey + o.family.keyRegisters - 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// redirect brings destination numbers to the one listener. There is no upper bound to compare with,
// because MaxNumber is the highest port there is.
func redirect() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: registerKey},
		&expr.Cmp{Op: expr.CmpOpEq, Register: registerKey, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGte, Register: registerKey, Data: binaryutil.BigEndian.PutUint16(wire.MinNumber)},
		&expr.Immediate{Register: registerKey, Data: binaryutil.BigEndian.PutUint16(wire.PortCaptured)},
		&expr.Redir{RegisterProtoMin: registerKey},
	}
}

// stateNew matches the first packet of a connection.
func stateNew() []expr.Any { return state(expr.CtStateBitNEW) }

// state matches packets of one state of connection tracking.
func state(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: registerKey},
		&expr.Bitwise{
			SourceRegister: registerKey, DestRegister: registerKey, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bit), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: registerKey, Data: make([]byte, 4)},
	}
}
