package kernel

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/google/nftables"
)

const (
	// countersSize is how many callers a set of counters has room for. When all sources are forged, or one
	// caller tries every port, this is what it costs.
	countersSize = 256
	// countersLifetime is how long a caller that does not come again keeps its room. It is longer by far than
	// what passes between two calls of Callers.
	countersLifetime = 10 * time.Minute
)

// Caller is what has been counted of one address at one port since the last call of Callers: connections
// that others than those admitted or allowed have opened, and attempts of theirs that were refused.
type Caller struct {
	Port uint16
	// Source is invalid for all callers of the port together that had no room of their own.
	Source               netip.Addr
	Connections, Refused uint64
	// Last is when the last of them was seen.
	Last time.Time
}

// callerID names a Caller.
type callerID struct {
	port   uint16
	source netip.Addr
}

// counterID names one counter in the kernel.
type counterID struct {
	family nftables.TableFamily
	set    string
	callerID
}

// Callers returns what has been counted since the last call, in no order. It works before the first Apply as
// well, on what an earlier agent left.
func (n *Netns) Callers() ([]Caller, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.count(); err != nil {
		return nil, fmt.Errorf("callers: %w", err)
	}
	out := make([]Caller, 0, len(n.uncollected))
	for _, caller := range n.uncollected {
		out = append(out, *caller)
	}
	n.uncollected = nil
	return out, nil
}

// count adds what the counters have grown by to what is not collected yet.
func (n *Netns) count() error {
	there := map[nftables.TableFamily]bool{familyIPv4.number: n.have.IPv4.Inbound != nil, familyIPv6.number: n.have.IPv6.Inbound != nil}
	if !n.known {
		found, err := n.read()
		if err != nil {
			return err
		}
		there = found.inbound
	}
	counted := map[counterID]uint64{}
	for _, f := range []family{familyIPv4, familyIPv6} {
		if !there[f.number] {
			continue
		}
		if err := n.countFamily(counted, f); err != nil {
			return err
		}
	}
	n.counted = counted
	return nil
}

func (n *Netns) countFamily(counted map[counterID]uint64, f family) error {
	conn, err := n.nftables()
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	o := newObjects(f, n.lifetime)
	for _, set := range []*nftables.Set{o.plain.callers, o.plain.rest, o.refused.callers, o.refused.rest} {
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("read %s: %w", set.Name, err)
		}
		for _, e := range elements {
			if e.Counter != nil {
				n.add(counted, f, set.Name, e)
			}
		}
	}
	return nil
}

// add takes one counter into account.
func (n *Netns) add(counted map[counterID]uint64, f family, set string, e nftables.SetElement) {
	id := counterID{family: f.number, set: set, callerID: callerID{port: binary.BigEndian.Uint16(e.Key)}}
	if len(e.Key) >= 4+int(f.bytes) {
		id.source, _ = netip.AddrFromSlice(e.Key[4 : 4+f.bytes])
	}
	now := e.Counter.Packets
	counted[id] = now
	growth := now - n.counted[id]
	if now < n.counted[id] {
		// The caller had lost its room and has got it anew.
		growth = now
	}
	if growth == 0 {
		return
	}
	caller := n.uncollected[id.callerID]
	if caller == nil {
		if n.uncollected == nil {
			n.uncollected = map[callerID]*Caller{}
		}
		caller = &Caller{Port: id.port, Source: id.source}
		n.uncollected[id.callerID] = caller
	}
	if set == setPlain || set == setPlain+suffixRest {
		caller.Connections += growth
	} else {
		caller.Refused += growth
	}
	if last := time.Now().Add(e.Expires - countersLifetime); last.After(caller.Last) {
		caller.Last = last
	}
}

// restart takes into account that the counters of a family have begun anew.
func (n *Netns) restart(f family) {
	maps.DeleteFunc(n.counted, func(id counterID, _ uint64) bool { return id.family == f.number })
}
