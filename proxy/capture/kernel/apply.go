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
	if !n.known {
		found, err := n.chains()
		if err != nil {
			return fmt.Errorf("rules: %w", err)
		}
		n.have.IPv4.Capture, n.have.IPv6.Capture = found.IPv4.Capture, found.IPv6.Capture
	}
	want = rules.Keep(n.have, want)
	if n.known && want.Equal(n.have) {
		return nil
	}
	rebuild := !n.known
	n.turn++
	n.known = false
	err := n.batch(func(c *nftables.Conn) error {
		if err := n.applyFamily(c, familyIPv4, rebuild, want.IPv4); err != nil {
			return err
		}
		return n.applyFamily(c, familyIPv6, rebuild, want.IPv6)
	})
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	n.have, n.known = want, true
	return nil
}

// applyFamily adds to the batch what one family needs.
func (n *Netns) applyFamily(c *nftables.Conn, f family, rebuild bool, want rules.Table) error {
	o := newObjects(f, n.lifetime)
	have := n.have.IPv4
	if f == familyIPv6 {
		have = n.have.IPv6
	}
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
	have := n.have
	if !n.known {
		found, err := n.chains()
		if err != nil {
			return fmt.Errorf("refresh: %w", err)
		}
		have = found
	}
	if !have.IPv4.Capture && !have.IPv6.Capture {
		return nil
	}
	n.turn++
	err := n.batch(func(c *nftables.Conn) error {
		for f, table := range map[family]rules.Table{familyIPv4: have.IPv4, familyIPv6: have.IPv6} {
			if !table.Capture {
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
