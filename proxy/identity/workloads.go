package identity

import (
	"context"
	"net/netip"

	"weft.dev/weft/proxy/wire"
)

// Workloads is the table of the namespace's pod addresses. It is safe for concurrent use.
type Workloads struct{}

// NewWorkloads returns an empty table.
func NewWorkloads() *Workloads { panic("not yet") }

// Update replaces the table and wakes those who wait for an address that is now in it. The table keeps the
// map; nobody may change it afterwards.
func (w *Workloads) Update(table map[netip.Addr]*wire.Workload) { panic("not yet") }

// Lookup returns the workload at an address. IPv4 addresses mapped into IPv6 are the same as plain ones.
func (w *Workloads) Lookup(address netip.Addr) (*wire.Workload, bool) { panic("not yet") }

// Wait returns the workload at an address as soon as it is known, or the context's error. A connection
// may arrive before the operator has told who its pod is.
func (w *Workloads) Wait(ctx context.Context, address netip.Addr) (*wire.Workload, error) {
	panic("not yet")
}
