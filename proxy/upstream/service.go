package upstream

import (
	"cmp"
	"slices"
	"sync/atomic"

	"weft.dev/weft/proxy/upstream/outlier"
	"weft.dev/weft/proxy/wire"
)

// Measures receives what a Set can tell about Backends: telemetry.Metrics implements it. Backends are
// named by their keys, the proxies of a namespace by "namespace/*". Calls must return at once.
type Measures interface {
	// Endpoints tells how many endpoints a Backend has in each state, whenever one of them changes.
	Endpoints(backend string, usable, ejected, unhealthy int)
	// Ejected counts an ejection. cause is one of package outlier's.
	Ejected(backend, cause string)
	// CircuitOpen counts a request that was refused because a limit of its Backend is reached: connections,
	// requests, endpoint_connections or endpoint_requests. Pending tells how many wait.
	CircuitOpen(backend, limit string)
	Pending(backend string, n int)
	// Forget ends what was measured of a Backend that is not configured any longer.
	Forget(backend string)
}

// unmeasured is what a Set without Measures has.
type unmeasured struct{}

// Endpoints implements Measures.
func (unmeasured) Endpoints(string, int, int, int) {}

// Ejected implements Measures.
func (unmeasured) Ejected(string, string) {}

// CircuitOpen implements Measures.
func (unmeasured) CircuitOpen(string, string) {}

// Pending implements Measures.
func (unmeasured) Pending(string, int) {}

// Forget implements Measures.
func (unmeasured) Forget(string) {}

// service is what a Set remembers about a Backend whose endpoints it picks itself, or about the proxies of
// a namespace, across changes of their configuration.
type service struct {
	key string
	breaker

	policy atomic.Pointer[outlier.Policy]
	// all is what the members together did since the start; it wraps.
	all tally
	// panicking tells that too few members are usable, so that all are used.
	panicking atomic.Bool
	// due is when the next probe of a member is, judge when the interval under way ends, both in
	// nanoseconds since the Set's start.
	due, judge atomic.Int64
	// members are the endpoints that do not terminate, unless all do. Guarded by Set.health.
	members []*endpoint
}

// serviceOf returns the service of that key, making it if needed. s.mu is held.
func (s *Set) serviceOf(key string) *service {
	svc := s.services[key]
	if svc == nil {
		svc = &service{key: key}
		s.services[key] = svc
	}
	return svc
}

// configure puts a policy and the members, which it keeps, into force. s.mu is held.
func (s *Set) configure(svc *service, policy *outlier.Policy, members []*endpoint) {
	now := s.elapsed()
	before := svc.policy.Swap(policy)
	if before == nil || before.Interval != policy.Interval || !before.ByInterval() {
		svc.judge.Store(int64(now + policy.Interval))
	}
	s.health.Lock()
	defer s.health.Unlock()
	for _, e := range svc.members {
		if !slices.Contains(members, e) {
			e.leave(svc)
		}
	}
	for _, e := range members {
		e.join(svc)
	}
	left := svc.members
	svc.members = members
	s.lift(svc)
	for _, e := range left {
		s.publish(e.services()...)
	}
	s.publish(svc)
}

// forget ends a service that is not configured any longer. s.mu is held.
func (s *Set) forget(svc *service) {
	s.health.Lock()
	defer s.health.Unlock()
	delete(s.services, svc.key)
	for _, e := range svc.members {
		e.leave(svc)
		s.publish(e.services()...)
	}
	svc.members = nil
	s.options.Measures.Forget(svc.key)
}

// join makes the endpoint a member of a service. When several name one address, the policy of the one whose
// key is the least counts; that is as good as any other order and the same in every proxy.
func (e *endpoint) join(svc *service) {
	services := e.services()
	at, found := slices.BinarySearchFunc(services, svc.key, func(s *service, key string) int { return cmp.Compare(s.key, key) })
	if !found {
		e.share(slices.Insert(slices.Clone(services), at, svc))
	}
}

// leave ends a membership. With the last one the state ends, too: nobody is left to judge it.
func (e *endpoint) leave(svc *service) {
	e.share(slices.DeleteFunc(slices.Clone(e.services()), func(s *service) bool { return s == svc }))
	if e.owner.Load() == nil {
		e.setState(steady)
	}
}

// services are those that the endpoint is a member of, by key. Set.health is held.
func (e *endpoint) services() []*service {
	if sharers := e.sharers.Load(); sharers != nil {
		return *sharers
	}
	if owner := e.owner.Load(); owner != nil {
		return []*service{owner}
	}
	return nil
}

// share makes these the services that the endpoint is a member of. Set.health is held.
func (e *endpoint) share(services []*service) {
	var owner *service
	if len(services) > 0 {
		owner = services[0]
	}
	e.owner.Store(owner)
	if len(services) > 1 {
		e.sharers.Store(&services)
	} else {
		e.sharers.Store(nil)
	}
}

// ejectionPolicy is what is in force for a Backend. Many have the same, which nobody may change.
func ejectionPolicy(policy *wire.Policy) *outlier.Policy {
	if policy == nil || policy.OutlierEjection == nil {
		return &defaultEjection
	}
	return new(outlier.PolicyOf(wire.Overlay(wire.DefaultPolicy(), policy).OutlierEjection))
}

// defaultEjection is in force where no policy says anything.
var defaultEjection = outlier.PolicyOf(wire.DefaultPolicy().OutlierEjection)

// judged are the endpoints that are judged: those that do not terminate, unless all do.
func (g *group) judged() []*endpoint {
	members := g.serving.members
	if len(members) == 0 {
		members = g.every.members
	}
	judged := make([]*endpoint, len(members))
	for i, m := range members {
		judged[i] = m.endpoint
	}
	return judged
}
