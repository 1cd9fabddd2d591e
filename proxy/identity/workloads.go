package identity

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"weft.dev/weft/proxy/wire"
)

// Workloads is the table of the namespace's pod addresses. It is safe for concurrent use.
type Workloads struct {
	mu      sync.RWMutex
	table   map[netip.Addr]*wire.Workload
	waiters map[netip.Addr]*waiter
}

// waiter is shared by all who wait for one address.
type waiter struct {
	found    chan struct{} // closed once workload is set
	workload *wire.Workload
	count    int
}

// NewWorkloads returns an empty table.
func NewWorkloads() *Workloads {
	return &Workloads{waiters: map[netip.Addr]*waiter{}}
}

// Update replaces the table, whose keys are plain addresses (never IPv4 mapped into IPv6), and wakes those
// who wait for an address that is now in it. The table keeps the map; nobody may change it afterwards.
func (w *Workloads) Update(table map[netip.Addr]*wire.Workload) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.table = table
	for address, waiting := range w.waiters {
		if workload, ok := table[address]; ok {
			waiting.workload = workload
			close(waiting.found)
			delete(w.waiters, address)
		}
	}
}

// Lookup returns the workload at an address. IPv4 addresses mapped into IPv6, as dual-stack listeners
// report them, are the same as plain ones.
func (w *Workloads) Lookup(address netip.Addr) (*wire.Workload, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	workload, ok := w.table[address.Unmap()]
	return workload, ok
}

// Wait returns the workload at an address as soon as it is known, or an error that wraps the context's. A
// connection may arrive before the operator has told who its pod is.
func (w *Workloads) Wait(ctx context.Context, address netip.Addr) (*wire.Workload, error) {
	address = address.Unmap()
	if workload, ok := w.Lookup(address); ok {
		return workload, nil
	}
	w.mu.Lock()
	if workload, ok := w.table[address]; ok {
		w.mu.Unlock()
		return workload, nil
	}
	waiting := w.waiters[address]
	if waiting == nil {
		waiting = &waiter{found: make(chan struct{})}
		w.waiters[address] = waiting
	}
	waiting.count++
	w.mu.Unlock()

	select {
	case <-waiting.found:
		return waiting.workload, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting.count--
	if waiting.count == 0 && w.waiters[address] == waiting {
		delete(w.waiters, address)
	}
	return nil, fmt.Errorf("workload of %s is not known: %w", address, context.Cause(ctx))
}
