package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/rules"
)

// Found is what a namespace holds of Weft's, as far as it matters to a new agent.
type Found struct {
	// Guard tells that an agent was there when the pod started.
	Guard bool
	// Inbound tells that there are rules that count or refuse callers.
	Inbound bool
	// Captured tells that connections are sent to a proxy now: there are rules, and they have not
	// expired.
	Captured bool
}

// Find reads what an earlier agent left.
func (n *Netns) Find() (Found, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	conn, err := n.nftables()
	if err != nil {
		return Found{}, err
	}
	defer func() { _ = conn.CloseLasting() }()
	guard, err := rulesByChain(conn, nftables.TableFamilyNetdev)
	if err != nil {
		return Found{}, err
	}
	found := Found{Guard: len(guard["guard"]) > 0}
	for _, f := range []family{familyIPv4, familyIPv6} {
		chains, err := rulesByChain(conn, f.number)
		if err != nil {
			return Found{}, err
		}
		found.Inbound = found.Inbound || len(chains["input"]) > 0
		if len(chains["capture"]) == 0 {
			continue
		}
		for _, set := range newObjects(f, n.lifetime).alive {
			alive, err := conn.GetSetElements(set)
			if err != nil {
				return Found{}, fmt.Errorf("read %s: %w", set.Name, err)
			}
			found.Captured = found.Captured || len(alive) > 0
		}
	}
	return found, nil
}

// present says for which families there is a table, and for which a capture chain in it, which is never
// taken away again, or a chain for callers.
type present struct{ tables, capture, inbound map[nftables.TableFamily]bool }

func (n *Netns) read() (present, error) {
	found := present{tables: map[nftables.TableFamily]bool{}, capture: map[nftables.TableFamily]bool{}, inbound: map[nftables.TableFamily]bool{}}
	conn, err := n.nftables()
	if err != nil {
		return found, err
	}
	defer func() { _ = conn.CloseLasting() }()
	tables, err := conn.ListTables()
	if err != nil {
		return found, fmt.Errorf("list tables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return found, fmt.Errorf("list chains: %w", err)
	}
	for _, table := range tables {
		if table.Name == tableName || table.Name == handoverName {
			found.tables[table.Family] = true
		}
	}
	for _, chain := range chains {
		if chain.Table.Name != tableName {
			continue
		}
		switch chain.Name {
		case "capture":
			found.capture[chain.Table.Family] = true
		case "input":
			found.inbound[chain.Table.Family] = true
		}
	}
	return found, nil
}

// Check compares what the namespace holds with what was put in force and repairs what somebody has
// damaged; repaired tells that it did. It is cheap while nobody changes rules in the namespace.
func (n *Netns) Check() (repaired bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.known && !n.guardKnown {
		return false, nil
	}
	generation, err := n.readGeneration()
	if err != nil {
		return false, fmt.Errorf("check: %w", err)
	}
	if generation == n.generation {
		return false, nil
	}
	rulesIntact, guardIntact, err := n.intact()
	if err != nil {
		return false, fmt.Errorf("check: %w", err)
	}
	n.generation = generation
	if n.known && !rulesIntact {
		n.known, repaired = false, true
		err = n.apply(n.have)
	}
	if n.guardKnown && !guardIntact {
		n.guardKnown, repaired = false, true
		err = errors.Join(err, n.guard(n.guarded))
	}
	return repaired, err
}

func (n *Netns) intact() (rulesIntact, guardIntact bool, err error) {
	conn, err := n.nftables()
	if err != nil {
		return false, false, err
	}
	defer func() { _ = conn.CloseLasting() }()
	rulesIntact = true
	for f, want := range map[family]rules.Table{familyIPv4: n.have.IPv4, familyIPv6: n.have.IPv6} {
		same, err := holds(conn, f, want)
		if err != nil {
			return false, false, err
		}
		rulesIntact = rulesIntact && same
	}
	guard, err := rulesByChain(conn, nftables.TableFamilyNetdev)
	if err != nil {
		return false, false, err
	}
	return rulesIntact, slices.Equal(guard["guard"], texts(guardRules(n.guarded))), nil
}

// holds tells whether the table of one family has the wanted chains, rules and elements.
func holds(conn *nftables.Conn, f family, want rules.Table) (bool, error) {
	got, err := rulesByChain(conn, f.number)
	if err != nil {
		return false, err
	}
	o := newObjects(f, 0)
	chains := map[string][]string{}
	if want.Capture {
		chains["output"], chains["capture"] = texts(o.outputRules()), texts(o.captureRules(want))
	}
	if want.Redirect {
		chains["prerouting"] = texts([][]expr.Any{redirect()})
	}
	in := want.Inbound
	if in != nil {
		chains["input"], chains["strict"], chains["counted"] = texts(o.inputRules(in.Closed)), texts(o.strictRules()), texts(o.countedRules())
	}
	if !maps.EqualFunc(got, chains, slices.Equal) {
		return false, nil
	}
	type content struct {
		sets []*nftables.Set
		want []nftables.SetElement
	}
	var parts []content
	if want.Capture {
		parts = append(parts, content{[]*nftables.Set{o.ports}, o.elements(want.All(), true)})
	}
	if in != nil {
		parts = append(parts,
			content{[]*nftables.Set{o.strictPorts}, portKeys(in.Strict)},
			content{[]*nftables.Set{o.countedPorts}, portKeys(in.Counted)},
			content{[]*nftables.Set{o.admitted}, addressKeys(in.Admitted)},
			content{o.allowed[:], allowanceKeys(in.Allowed)})
	}
	for _, part := range parts {
		var got []nftables.SetElement
		for _, set := range part.sets {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return false, fmt.Errorf("read %s: %w", set.Name, err)
			}
			got = append(got, elements...)
		}
		if !maps.Equal(byKey(got), byKey(part.want)) {
			return false, nil
		}
	}
	return true, nil
}

// byKey makes elements comparable.
func byKey(elements []nftables.SetElement) map[string]string {
	out := make(map[string]string, len(elements))
	for _, e := range elements {
		out[string(e.Key)+string(e.KeyEnd)] = string(e.Val)
	}
	return out
}

// rulesByChain returns the rules of each chain in the table of one family as texts; a table that is not
// there has no chains.
func rulesByChain(conn *nftables.Conn, f nftables.TableFamily) (map[string][]string, error) {
	chains, err := conn.ListChainsOfTableFamily(f)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	out := map[string][]string{}
	for _, chain := range chains {
		if chain.Table.Name != tableName {
			continue
		}
		list, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("list rules of %s: %w", chain.Name, err)
		}
		rules := make([][]expr.Any, len(list))
		for i, rule := range list {
			rules[i] = rule.Exprs
		}
		out[chain.Name] = texts(rules)
	}
	return out, nil
}

// texts makes rules comparable.
func texts(rules [][]expr.Any) []string {
	out := make([]string, len(rules))
	for i, rule := range rules {
		for _, e := range rule {
			out[i] += text(e) + "; "
		}
	}
	return out
}

// text is what an expression does, without what the kernel names its own way: registers, and sets without a
// name.
func text(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Meta:
		return fmt.Sprint("meta ", e.Key)
	case *expr.Ct:
		return fmt.Sprint("ct ", e.Key)
	case *expr.Payload:
		return fmt.Sprint("payload ", e.Base, e.Offset, e.Len)
	case *expr.Bitwise:
		return fmt.Sprintf("bitwise %x %x", e.Mask, e.Xor)
	case *expr.Cmp:
		return fmt.Sprintf("cmp %d %x", e.Op, e.Data)
	case *expr.Lookup:
		name := e.SetName
		if strings.HasPrefix(name, "__") {
			name = "unnamed"
		}
		return fmt.Sprint("lookup ", name, e.Invert)
	case *expr.Dynset:
		return fmt.Sprint("dynset ", e.SetName, e.Operation)
	case *expr.Immediate:
		return fmt.Sprintf("immediate %x", e.Data)
	case *expr.Numgen:
		return fmt.Sprint("numgen ", e.Type, e.Modulus)
	case *expr.NAT:
		return fmt.Sprint("nat ", e.Type)
	case *expr.Reject:
		return fmt.Sprint("reject ", e.Type)
	case *expr.Verdict:
		return fmt.Sprint("verdict ", e.Kind, e.Chain)
	default:
		return fmt.Sprintf("%T", e)
	}
}

// readGeneration asks for the number of the present ruleset.
func (n *Netns) readGeneration() (uint32, error) {
	conn, err := mdlayher.Dial(unix.NETLINK_NETFILTER, &mdlayher.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return 0, fmt.Errorf("netfilter socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	replies, err := conn.Execute(mdlayher.Message{
		Header: mdlayher.Header{
			Type:  mdlayher.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: mdlayher.Request,
		},
		Data: make([]byte, 4),
	})
	if err != nil {
		return 0, fmt.Errorf("read generation: %w", err)
	}
	for _, reply := range replies {
		if len(reply.Data) < 4 {
			continue
		}
		attributes, err := mdlayher.NewAttributeDecoder(reply.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("read generation: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), nil
			}
		}
	}
	return 0, errors.New("read generation: the answer has none")
}
