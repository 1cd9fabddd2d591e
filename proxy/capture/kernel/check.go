package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"github.com/google/nftables"
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
	found := Found{Guard: guard["guard"] > 0}
	for _, f := range []family{familyIPv4, familyIPv6} {
		chains, err := rulesByChain(conn, f.number)
		if err != nil {
			return Found{}, err
		}
		found.Inbound = found.Inbound || chains["input"] > 0
		if chains["capture"] == 0 {
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
	return rulesIntact, guard["guard"] == guardRules(n.guarded), nil
}

// holds tells whether the table of one family has the wanted chains, numbers of rules and elements.
func holds(conn *nftables.Conn, f family, want rules.Table) (bool, error) {
	got, err := rulesByChain(conn, f.number)
	if err != nil {
		return false, err
	}
	o := newObjects(f, 0)
	chains := map[string]int{}
	if want.Capture {
		chains["output"] = 2
		chains["capture"] = captureRules(want)
	}
	if want.Redirect {
		chains["prerouting"] = 1
	}
	in := want.Inbound
	if in != nil {
		chains["input"], chains["strict"], chains["counted"] = len(o.inputRules(in.Closed)), len(o.strictRules()), len(o.countedRules())
	}
	if !maps.Equal(got, chains) {
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

// rulesByChain counts the rules of each chain in the table of one family; a table that is not there
// has no chains.
func rulesByChain(conn *nftables.Conn, f nftables.TableFamily) (map[string]int, error) {
	chains, err := conn.ListChainsOfTableFamily(f)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	counts := map[string]int{}
	for _, chain := range chains {
		if chain.Table.Name != tableName {
			continue
		}
		list, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("list rules of %s: %w", chain.Name, err)
		}
		counts[chain.Name] = len(list)
	}
	return counts, nil
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
