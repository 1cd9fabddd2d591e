package source

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"weft.dev/weft/proxy/wire"
)

// reports is the latest that a node agent has to say: the running pods, who has called them past the mesh, the
// last canary, and what of it has not been sent on the present stream.
type reports struct {
	mu    sync.Mutex
	pods  map[string]wire.PodReport
	plain map[wire.PlainKey]wire.PlainCaller
	// full tells that pods are all pods of the node.
	full   bool
	canary *wire.CanaryReport

	// unsent holds changed pods, the ended ones included; all tells that everything must be sent.
	unsent       map[string]wire.PodReport
	unsentPlain  map[wire.PlainKey]wire.PlainCaller
	unsentCanary bool
	all          bool
	wake         chan struct{}
}

// signal returns the channel that holds a signal when something is unsent. The lock is held.
func (r *reports) signal() chan struct{} {
	if r.wake == nil {
		r.wake = make(chan struct{}, 1)
	}
	return r.wake
}

func (r *reports) wakeUp() {
	select {
	case r.signal() <- struct{}{}:
	default:
	}
}

func (r *reports) add(report wire.NodeReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if report.Full || r.pods == nil {
		r.pods, r.unsent = map[string]wire.PodReport{}, map[string]wire.PodReport{}
		r.plain, r.unsentPlain = map[wire.PlainKey]wire.PlainCaller{}, map[wire.PlainKey]wire.PlainCaller{}
	}
	if report.Full {
		r.full, r.all = true, true
	}
	for _, pod := range report.Pods {
		if pod.Ended {
			delete(r.pods, pod.UID)
			for _, callers := range []map[wire.PlainKey]wire.PlainCaller{r.plain, r.unsentPlain} {
				maps.DeleteFunc(callers, func(key wire.PlainKey, _ wire.PlainCaller) bool { return key.UID == pod.UID })
			}
		} else {
			r.pods[pod.UID] = pod
		}
		r.unsent[pod.UID] = pod
	}
	for _, caller := range report.Plain {
		key := caller.Key()
		r.plain[key], r.unsentPlain[key] = caller, caller
	}
	if report.Canary != nil {
		r.canary, r.unsentCanary = report.Canary, true
	}
	r.wakeUp()
}

// restart makes everything unsent, for a new stream, and returns the channel to wait on.
func (r *reports) restart() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all, r.unsentCanary = true, r.canary != nil
	r.wakeUp()
	return r.signal()
}

// take returns what is unsent and counts it as sent, or nil.
func (r *reports) take() *wire.NodeReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	pods, plain, full := r.unsent, r.unsentPlain, false
	if r.all {
		pods, plain, full = r.pods, r.plain, r.full
	}
	if len(pods) == 0 && len(plain) == 0 && !full && !r.unsentCanary {
		return nil
	}
	report := &wire.NodeReport{Full: full, Pods: slices.SortedFunc(maps.Values(pods), func(a, b wire.PodReport) int {
		return cmp.Compare(a.UID, b.UID)
	})}
	report.Plain = slices.SortedFunc(maps.Values(plain), func(a, b wire.PlainCaller) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Port, b.Port), a.Source.Compare(b.Source))
	})
	if r.unsentCanary {
		report.Canary = r.canary
	}
	r.unsent, r.unsentPlain = map[string]wire.PodReport{}, map[wire.PlainKey]wire.PlainCaller{}
	r.unsentCanary, r.all = false, false
	return report
}

// sendReports sends what is reported until the stream or ctx ends. What is lost with a stream is sent
// again on the next.
func (s *Stream) sendReports(ctx context.Context, up *upstream) {
	wake := s.reports.restart()
	for {
		select {
		case <-wake:
			report := s.reports.take()
			if report == nil {
				continue
			}
			if up.send(&wire.ClientMessage{Node: report}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
