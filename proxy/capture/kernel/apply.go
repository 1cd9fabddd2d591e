package kernel

import (
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
// the first Apply is replaced. After an error nothing of want is in force, and the next Apply replaces
// everything.
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
		return nil
	}
	parts := n.parts(want, exists)
	n.turn++
	n.known = false
	err := n.batches(parts)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	n.have, n.known = want, true
	return nil
}

// part is what Apply has to do for one family.
type part struct {
	family
	have, want rules.Table
	// rebuild replaces the table; replaces tells that there is one.
	rebuild, replaces bool
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

// batches brings the parts into force, under the cover of a second table where one is replaced.
func (n *Netns) batches(parts []part) error {
	cover := func(do func(*nftables.Conn, *objects, part) error) error {
		return n.batch(func(c *nftables.Conn) error {
			for _, p := range parts {
				if !p.replaces {
					continue
				}
				if err := do(c, namedObjects(p.family, n.lifetime, handoverName, 1), p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	replaces := slices.ContainsFunc(parts, func(p part) bool { return p.replaces })
	if replaces {
		err := cover(func(c *nftables.Conn, o *objects, p part) error { return o.rebuild(c, p.want) })
		if err != nil {
			return err
		}
	}
	err := n.batch(func(c *nftables.Conn) error {
		for _, p := range parts {
			if err := n.applyFamily(c, newObjects(p.family, n.lifetime), p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !replaces {
		return err
	}
	return cover(func(c *nftables.Conn, o *objects, _ part) error {
		o.remove(c)
		return nil
	})
}

// applyFamily adds to the batch what one family needs.
func (n *Netns) applyFamily(c *nftables.Conn, o *objects, p part) error {
	want := p.want
	if p.rebuild {
		return o.rebuild(c, want)
	}
	change := rules.Diff(p.have, want)
	if want.Captures() && !change.None() {
		// While nothing was captured nobody refreshed.
		if err := o.refresh(c, n.turn); err != nil {
			return err
		}
	}
	return o.change(c, change, want)
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
