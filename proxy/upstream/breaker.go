package upstream

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/wire"
)

// limits bound what this proxy gives a service and each of its endpoints at once; zero means no bound.
type limits struct {
	connections, requests, pending        int
	wait                                  time.Duration
	endpointConnections, endpointRequests int
}

// limitsOf returns the part of a Backend's limits that falls to one of so many proxies, nil if nothing is
// limited.
func limitsOf(policy *wire.Policy, replicas int) *limits {
	w := wire.Overlay(wire.DefaultPolicy(), policy).CircuitBreaking
	share := func(n *int) int {
		if *n == 0 {
			return 0
		}
		return max(1, *n/replicas)
	}
	l := &limits{
		connections: share(w.MaxConnections), requests: share(w.MaxRequests), pending: share(w.MaxPendingRequests),
		wait:                time.Duration(*w.PendingTimeout),
		endpointConnections: *w.PerEndpoint.MaxConnections, endpointRequests: *w.PerEndpoint.MaxRequests,
	}
	if l.connections+l.requests+l.endpointConnections+l.endpointRequests == 0 {
		return nil
	}
	return l
}

// The names of limits in metrics.
const (
	limitConnections         = "connections"
	limitRequests            = "requests"
	limitEndpointConnections = "endpoint_connections"
	limitEndpointRequests    = "endpoint_requests"
)

// occupied counts connections. Those that one request has for itself (HTTP/1.1, WebSocket, TCP) are
// exclusive, and count while it has them: idle ones are closed when they stand in the way of another. Those
// that requests share (HTTP/2) count from dialling on.
type occupied struct {
	exclusive, shared atomic.Int32
}

func (o *occupied) connections() int { return int(o.exclusive.Load() + o.shared.Load()) }

// over tells whether n, which is not to grow beyond limit, cannot grow.
func over(n, limit int) bool { return limit > 0 && n >= limit }

// breaker is a service's limits, what counts against them, and the requests that wait. Requests and
// connections are counted whether there are limits or not, so that new ones hold at once; without limits
// that is all there is to it.
type breaker struct {
	occupied
	requests atomic.Int32
	limits   atomic.Pointer[limits]
	waiting  atomic.Int32 // the length of queue, to be read without the lock

	// admission guards the queue, and lets one request at a time compare load and limits.
	admission sync.Mutex
	queue     *list.List // of *turn; the longest waiting first; nil if there never was one
}

// turn is closed when it is the turn of a request that waits.
type turn chan struct{}

// slot is the right to send one request, or to have one TCP connection.
type slot struct {
	service   *service // nil on the hop, which has no limits here
	endpoint  *endpoint
	exclusive bool
}

func (s slot) take() slot {
	s.add(1)
	return s
}

// release gives the slot back to a request that waits.
func (s slot) release() {
	s.add(-1)
	if s.service == nil {
		return
	}
	s.service.wake()
	if sharers := s.endpoint.sharers.Load(); sharers != nil {
		for _, other := range *sharers {
			other.wake()
		}
	}
}

func (s slot) add(n int32) {
	s.endpoint.inFlight.Add(n)
	if s.service != nil {
		s.service.requests.Add(n)
	}
	if !s.exclusive {
		return
	}
	s.endpoint.exclusive.Add(n)
	if s.service != nil {
		s.service.exclusive.Add(n)
	}
}

// reservation is a slot that Choose has taken and nobody uses yet.
type reservation struct {
	slot
	used atomic.Bool
}

// claim returns the slot for a request to an endpoint: the one that Choose has taken for it, if there is one.
func (e Endpoint) claim(exclusive bool) slot {
	s := slot{service: e.target.service, endpoint: e.state, exclusive: exclusive}
	if r := e.reserved; r != nil && !r.used.Swap(true) {
		if r.exclusive == exclusive {
			return s
		}
		s.take()
		r.release()
		return s
	}
	return s.take()
}

// Release gives back what Choose has taken for a request that is not sent after all.
func (e Endpoint) Release() {
	if r := e.reserved; r != nil && !r.used.Swap(true) {
		r.release()
	}
}

// exclusive tells whether a request has a connection for itself.
func exclusive(protocol wire.Protocol, grpc, upgrade bool) bool {
	return upgrade || protocol == wire.ProtocolTCP || protocol != wire.ProtocolH2C && !grpc
}

// admit chooses an endpoint within limits, waiting for one if need be.
//
// Those who wait are served in the order in which they came. The newest first would answer more of them in
// time if the queue could grow old; but its length and the wait are bounded, so that who is in it still
// wants the answer, and nobody starves.
func (v *View) admit(ctx context.Context, t *target, wish Wish) (Endpoint, error) {
	svc := t.service
	wish.exclusive = exclusive(t.backend.Protocol, wish.GRPC, wish.Upgrade)
	var place turn
	var expired <-chan time.Time
	for {
		to, full, err := svc.admitNow(v, t, wish, &place)
		if full == "" {
			return to, err
		}
		if place == nil {
			v.set.options.Measures.CircuitOpen(svc.key, full)
			return Endpoint{}, &Error{Reason: ReasonFull, NotSent: true, BodyIntact: true, Err: fmt.Errorf("%s has reached its limit of %s", svc.key, full)}
		}
		if l := svc.limits.Load(); expired == nil && l != nil && l.wait > 0 {
			timer := time.NewTimer(l.wait)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-place:
			continue
		case <-expired:
			err = &Error{Reason: ReasonFull, NotSent: true, BodyIntact: true, Err: fmt.Errorf("%s has reached its limit of %s: no turn within the pending timeout", svc.key, full)}
			v.set.options.Measures.CircuitOpen(svc.key, full)
		case <-ctx.Done():
			err = &Error{Reason: contextReason(ctx), NotSent: true, BodyIntact: true, Err: fmt.Errorf("waiting for a turn: %w", context.Cause(ctx))}
		}
		svc.giveUp(v.set, place)
		return Endpoint{}, err
	}
}

// admitNow returns an endpoint, or an error that waiting does not change, or the name of the limit that is in
// the way. place is that of the request in the queue, nil if it has none; there is one afterwards unless the
// queue is full or the request need not wait.
func (svc *service) admitNow(v *View, t *target, wish Wish, place *turn) (to Endpoint, full string, err error) {
	svc.admission.Lock()
	defer svc.admission.Unlock()
	if svc.queue == nil {
		svc.queue = list.New()
	}
	l := svc.limits.Load()
	if l == nil {
		l = &limits{}
	}
	wish.limits = l
	if full = svc.full(l, wish.exclusive); *place == nil && full == "" && svc.queue.Len() > 0 {
		full = limitRequests // others were first
		if l.requests == 0 {
			full = limitEndpointRequests
		}
	} else if full == "" {
		to, full, err = v.chooseWithin(t, wish)
	}
	if full == "" {
		if err == nil {
			to.reserved = &reservation{slot: slot{service: svc, endpoint: to.state, exclusive: wish.exclusive}.take()}
		}
		if *place != nil {
			svc.counted(v.set)
		}
		// There may be room for the next as well, and an error that is not the limits' is theirs too.
		if svc.queue.Len() > 0 && svc.full(l, wish.exclusive) == "" {
			svc.wakeLocked()
		}
		return to, "", err
	}
	switch {
	case *place != nil:
		*place = make(turn)
		svc.queue.PushFront(*place)
	case svc.queue.Len() < l.pending:
		*place = make(turn)
		svc.queue.PushBack(*place)
	}
	svc.counted(v.set)
	return to, full, nil
}

// full names the limit of the service itself that is reached.
func (svc *service) full(l *limits, exclusive bool) string {
	switch {
	case over(int(svc.requests.Load()), l.requests):
		return limitRequests
	case exclusive && over(svc.connections(), l.connections):
		return limitConnections
	}
	return ""
}

// wake gives the first who waits a turn.
func (svc *service) wake() {
	if svc.waiting.Load() == 0 {
		return
	}
	svc.admission.Lock()
	defer svc.admission.Unlock()
	svc.wakeLocked()
}

func (svc *service) wakeLocked() {
	if first := svc.queue.Front(); first != nil {
		svc.queue.Remove(first)
		svc.waiting.Store(int32(svc.queue.Len()))
		close(first.Value.(turn)) //nolint:forcetypeassert // the queue holds nothing else
	}
}

// giveUp ends the wait of a request. If its turn had come meanwhile it is the next one's.
func (svc *service) giveUp(s *Set, place turn) {
	svc.admission.Lock()
	defer svc.admission.Unlock()
	for item := svc.queue.Front(); item != nil; item = item.Next() {
		if item.Value == place {
			svc.queue.Remove(item)
			svc.counted(s)
			return
		}
	}
	svc.wakeLocked()
	svc.counted(s)
}

// counted tells how long the queue is.
func (svc *service) counted(s *Set) {
	n := svc.queue.Len()
	svc.waiting.Store(int32(n))
	s.options.Measures.Pending(svc.key, n)
}

// limit puts limits into force for whatever comes next.
func (svc *service) limit(l *limits) {
	svc.limits.Store(l)
	svc.wake()
}

// penaltyFull ranks endpoints that may not be given more behind all others.
const penaltyFull = 1 << 11

// full names the limit of an endpoint that is reached.
func (l *limits) full(e *endpoint, exclusive bool) string {
	switch {
	case over(int(e.inFlight.Load()), l.endpointRequests):
		return limitEndpointRequests
	case exclusive && over(e.connections(), l.endpointConnections):
		return limitEndpointConnections
	}
	return ""
}

// reserveShared takes the right to dial a connection that requests will share, which is given back with
// releaseShared. Requests do not wait for it: nothing tells when one of them leaves room on a connection.
func (e Endpoint) reserveShared() error {
	svc := e.target.service
	if svc == nil {
		return nil
	}
	if l := svc.limits.Load(); l != nil {
		svc.admission.Lock()
		defer svc.admission.Unlock()
		failure := &Error{Reason: ReasonFull, Endpoint: e.state.address, NotSent: true}
		full := ""
		if over(svc.connections(), l.connections) {
			full = limitConnections
		} else if over(e.state.connections(), l.endpointConnections) {
			full, failure.Reason = limitEndpointConnections, ReasonEndpointFull
		}
		if full != "" {
			e.state.set.options.Measures.CircuitOpen(svc.key, full)
			failure.Err = errors.New("reached its limit of " + full)
			return failure
		}
	}
	svc.shared.Add(1)
	e.state.shared.Add(1)
	return nil
}

func (e Endpoint) releaseShared() {
	if svc := e.target.service; svc != nil {
		svc.shared.Add(-1)
		e.state.shared.Add(-1)
		svc.wake()
	}
}

// makeRoom closes connections that are idle, the longest first, until there may be one more. The request
// that wants it has been admitted, so that there is no need for another's to end.
func (e Endpoint) makeRoom() {
	svc := e.target.service
	if svc == nil {
		return
	}
	l := svc.limits.Load()
	if l == nil {
		return
	}
	for l.endpointConnections > 0 && e.state.connections()+e.state.idle() > l.endpointConnections && e.state.closeLongestIdle() {
	}
	if l.connections == 0 {
		return
	}
	set := e.state.set
	set.health.Lock()
	members := svc.members // replaced as a whole when it changes
	set.health.Unlock()
	idle := 0
	for _, m := range members {
		idle += m.idle()
	}
	for _, m := range members {
		for svc.connections()+idle > l.connections && m.closeLongestIdle() {
			idle--
		}
	}
}
