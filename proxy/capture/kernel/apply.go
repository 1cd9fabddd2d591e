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
	err = n.batch(func(c *nftables.Conn) error {
		addGuard(c, device, addresses)
		return nil
	})
	if err != nil {
		return fmt.Errorf("guard: %w", err)
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
	rebuild := !n.known
	n.turn++
	n.known = false
	err := n.batch(func(c *nftables.Conn) error {
		for _, f := range []struct {
			family
			have, want rules.Table
		}{{familyIPv4, n.have.IPv4, want.IPv4}, {familyIPv6, n.have.IPv6, want.IPv6}} {
			if f.want.Empty() && !exists[f.number] {
				// A kernel without the family must not be asked for it.
				continue
			}
			if err := n.applyFamily(c, newObjects(f.family, n.lifetime), rebuild, f.have, f.want); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	n.have, n.known = want, true
	return nil
}

// applyFamily adds to the batch what one family needs.
func (n *Netns) applyFamily(c *nftables.Conn, o *objects, rebuild bool, have, want rules.Table) error {
	change := rules.Diff(have, want)
	if rebuild || change.Rebuild {
		return o.rebuild(c, want)
	}
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
