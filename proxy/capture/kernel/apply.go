package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/rules"
)

// Guard lets only frames from the given addresses leave the device that holds them. It does nothing
// when that is in force already.
func (n *Netns) Guard(addresses []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.guard(addresses)
}

func (n *Netns) guard(addresses []netip.Addr) error {
	if n.guardKnown && slices.Equal(n.guarded, addresses) {
		return nil
	}
	handle, err := n.handle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	defer handle.Close()
	device, err := ethernetHolding(handle, addresses)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	n.guardKnown = false
	// A second guard stands while the first is replaced (see handoverName).
	for _, step := range []func(*nftables.Conn){
		func(c *nftables.Conn) { addGuard(c, handoverName, device, addresses) },
		func(c *nftables.Conn) { addGuard(c, tableName, device, addresses) },
		func(c *nftables.Conn) { removeTable(c, guardTable(handoverName)) },
	} {
		err = n.batch(func(c *nftables.Conn) error {
			step(c)
			return nil
		})
		if err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	n.guarded, n.guardKnown = slices.Clone(addresses), true
	return nil
}

// Apply brings want into force in one step and does nothing where that is in force already.
// Connections that are established keep the translation they have. Whatever the namespace held before
// the first Apply is replaced. After an error it is to be called again with what is wanted then.
func (n *Netns) Apply(want rules.Tables) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apply(want)
}

func (n *Netns) apply(want rules.Tables) error {
	// exists tells for which families there is a table already.
	exists := map[nftables.TableFamily]bool{familyIPv4.number: n.known, familyIPv6.number: n.known}
	if !n.known {
		found, err := n.read()
		if err != nil {
			return fmt.Errorf("rules: %w", err)
		}
		exists = found.tables
		n.have.IPv4.Capture, n.have.IPv6.Capture = found.capture[familyIPv4.number], found.capture[familyIPv6.number]
	}
	want = rules.Keep(n.have, want)
	if n.known && want.Equal(n.have) {
		return n.endSessions(want)
	}
	parts := n.parts(want, exists)
	// What must be done before the rules change does not keep them from it: nothing opens by failing.
	var before error
	if slices.ContainsFunc(parts, part.ends) {
		n.ending = true
		before = n.recordDirections(want)
	}
	if slices.ContainsFunc(parts, func(p part) bool { return p.replaces }) {
		before = errors.Join(before, n.count())
	}
	n.turn++
	n.known = false
	err := n.batches(parts)
	if err != nil {
		return fmt.Errorf("rules: %w", errors.Join(before, err))
	}
	n.have, n.known = want, true
	for _, p := range parts {
		if p.replaces {
			n.restart(p.family)
		}
	}
	if err := errors.Join(before, n.endSessions(want)); err != nil {
		return fmt.Errorf("rules are in force, and something around them failed: %w", err)
	}
	return nil
}

// part is what Apply has to do for one family.
type part struct {
	family
	have, want rules.Table
	// rebuild replaces the table; replaces tells that there is one.
	rebuild, replaces bool
}

// ends tells that connections may be open that shall be no more.
func (p part) ends() bool {
	if p.rebuild {
		return p.want.Inbound != nil && len(p.want.Inbound.Strict) > 0
	}
	return rules.Diff(p.have, p.want).Inbound.Ends()
}

// parts leaves out a family that nothing is asked of: a kernel without it must not be asked.
func (n *Netns) parts(want rules.Tables, exists map[nftables.TableFamily]bool) []part {
	var parts []part
	for _, p := range []part{
		{family: familyIPv4, have: n.have.IPv4, want: want.IPv4},
		{family: familyIPv6, have: n.have.IPv6, want: want.IPv6},
	} {
		if p.want.Empty() && !exists[p.number] {
			continue
		}
		p.rebuild = !n.known || rules.Diff(p.have, p.want).Rebuild
		p.replaces = p.rebuild && exists[p.number]
		parts = append(parts, p)
	}
	return parts
}

// step is what one batch does; nil does nothing.
type step func(*nftables.Conn) error

func unless(nothing bool, do step) step {
	if nothing {
		return nil
	}
	return do
}

// batches brings the parts into force, under the cover of a second table where one is replaced.
func (n *Netns) batches(parts []part) error {
	var covers, changes, uncovers [][]step
	for _, p := range parts {
		changes = append(changes, n.steps(newObjects(p.family, n.lifetime), p))
		if p.replaces {
			cover := namedObjects(p.family, n.lifetime, handoverName, 1)
			covers = append(covers, cover.rebuildSteps(p.want))
			uncovers = append(uncovers, []step{func(c *nftables.Conn) error {
				cover.remove(c)
				return nil
			}})
		}
	}
	for _, phase := range [][][]step{covers, changes, uncovers} {
		if err := n.sideBySide(phase); err != nil {
			return err
		}
	}
	return nil
}

// sideBySide takes the first steps of all lists in one batch, then the second ones, and so on.
func (n *Netns) sideBySide(lists [][]step) error {
	for i := 0; ; i++ {
		var due []step
		more := false
		for _, steps := range lists {
			if i >= len(steps) {
				continue
			}
			more = true
			if steps[i] != nil {
				due = append(due, steps[i])
			}
		}
		if !more {
			return nil
		}
		if len(due) == 0 {
			continue
		}
		err := n.batch(func(c *nftables.Conn) error {
			for _, do := range due {
				if err := do(c); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// steps are the batches that one family needs.
func (n *Netns) steps(o *objects, p part) []step {
	if p.rebuild {
		n.allowedInUse[p.number] = 0
		return o.rebuildSteps(p.want)
	}
	change := rules.Diff(p.have, p.want)
	capture := unless(len(change.Remove)+len(change.Add) == 0 && !change.Proxies, func(c *nftables.Conn) error {
		if p.want.Captures() {
			// While nothing was captured nobody refreshed.
			if err := o.refresh(c, n.turn); err != nil {
				return err
			}
		}
		return o.change(c, change, p.want)
	})
	steps, inUse := o.inboundSteps(change.Inbound, p.want.Inbound, n.allowedInUse[p.number])
	n.allowedInUse[p.number] = inUse
	return append([]step{capture}, steps...)
}

func (o *objects) rebuildSteps(want rules.Table) []step {
	return []step{
		func(c *nftables.Conn) error { return o.rebuild(c, want) },
		unless(want.Inbound == nil || !want.Inbound.Closed && len(want.Inbound.Strict) == 0, func(c *nftables.Conn) error {
			return o.refuse(c, want.Inbound)
		}),
	}
}

// Clear takes away all that Weft has put into the namespace, whoever did. Connections that are captured still end
// with it: in a namespace without a chain for that the kernel translates nothing.
func (n *Netns) Clear() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known, n.guardKnown = false, false
	err := n.batch(func(c *nftables.Conn) error {
		tables, err := c.ListTables()
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		for _, table := range tables {
			if table.Name == tableName || table.Name == handoverName {
				c.DelTable(table)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	n.have, n.counted, n.uncollected, n.ending = rules.Tables{}, nil, nil, false
	clear(n.allowedInUse)
	return nil
}

// Refresh lets capture live on for another Lifetime. It works before the first Apply as well, on what
// an earlier agent left.
func (n *Netns) Refresh() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	capture := map[nftables.TableFamily]bool{familyIPv4.number: n.have.IPv4.Capture, familyIPv6.number: n.have.IPv6.Capture}
	if !n.known {
		found, err := n.read()
		if err != nil {
			return fmt.Errorf("refresh: %w", err)
		}
		capture = found.capture
	}
	n.turn++
	err := n.batch(func(c *nftables.Conn) error {
		for _, f := range []family{familyIPv4, familyIPv6} {
			if !capture[f.number] {
				continue
			}
			if err := newObjects(f, n.lifetime).refresh(c, n.turn); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		n.known = false
		return fmt.Errorf("refresh: %w", err)
	}
	return nil
}
