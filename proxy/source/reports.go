package source

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"weft.dev/weft/proxy/wire"
)

// reports is the latest that a node agent has to say: the running pods, the last canary, and what of it
// has not been sent on the present stream.
type reports struct {
	mu   sync.Mutex
	pods map[string]wire.PodReport
	// full tells that pods are all pods of the node.
	full   bool
	canary *wire.CanaryReport

	// unsent holds changed pods, the ended ones included; all tells that everything must be sent.
	unsent       map[string]wire.PodReport
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
	}
	if report.Full {
		r.full, r.all = true, true
	}
	for _, pod := range report.Pods {
		if pod.Ended {
			delete(r.pods, pod.UID)
		} else {
			r.pods[pod.UID] = pod
		}
		r.unsent[pod.UID] = pod
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
	pods, full := r.unsent, false
	if r.all {
		pods, full = r.pods, r.full
	}
	if len(pods) == 0 && !full && !r.unsentCanary {
		return nil
	}
	report := &wire.NodeReport{Full: full, Pods: slices.SortedFunc(maps.Values(pods), func(a, b wire.PodReport) int {
		return cmp.Compare(a.UID, b.UID)
	})}
	if r.unsentCanary {
		report.Canary = r.canary
	}
	r.unsent, r.unsentCanary, r.all = map[string]wire.PodReport{}, false, false
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
