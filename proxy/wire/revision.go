package wire

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Revision numbers what a receiver must understand to put everything in this package into force. A receiver ignores
// fields that it does not know, and rejects kinds that it does not know; where leaving something out changes what
// happens to a request, Needs has to say so and Revision to grow. Clients send theirs in Hello.
//
//	0  before the number: Mesh, Destination, Route with timeouts and retries, Backend, Endpoints, Proxies, Workload, Certificate, Capture
//	1  Policy, Authorization, Inbound
const Revision = 1

// Needs returns the lowest revision of a receiver that puts the whole of a resource into force.
func (r *Resource) Needs() int {
	switch {
	case r.Authorization != nil, r.Inbound != nil:
		return 1
	case r.Destination != nil && r.Destination.Policy != nil, r.Backend != nil && r.Backend.Policy != nil:
		return 1
	case r.Route != nil:
		if _, whole := beforePolicy(r.Route.Policy); !whole {
			return 1
		}
	}
	return 0
}

// routeBefore is what a Route of revision 0 has in place of Policy. It is sent beside Policy, so that the timeouts
// and retries of routes hold while proxies of both revisions serve, and read where an operator of revision 0 sends
// no Policy.
type routeBefore struct {
	Timeouts timeoutsBefore `json:"timeouts,omitzero"`
	Retry    *retryBefore   `json:"retry,omitempty"`
}

type timeoutsBefore struct {
	Request        Duration `json:"request,omitzero"`
	BackendRequest Duration `json:"backendRequest,omitzero"`
}

type retryBefore struct {
	Attempts int      `json:"attempts"`
	Codes    []int    `json:"codes,omitempty"`
	Backoff  Duration `json:"backoff,omitzero"`
}

// beforePolicy returns what can be said of a policy in revision 0, and whether that is the whole of it.
func beforePolicy(p *Policy) (before routeBefore, whole bool) {
	if p == nil {
		return before, true
	}
	if t := p.Timeouts; t != nil {
		before.Timeouts = timeoutsBefore{Request: value(t.Request), BackendRequest: value(t.BackendRequest)}
	}
	// In revision 0 codes are retried whatever the method.
	if r := p.Retry; r != nil && r.Attempts != nil && (len(r.Codes) == 0 || value(r.Methods) == RetryAll) {
		before.Retry = &retryBefore{Attempts: *r.Attempts, Codes: r.Codes, Backoff: value(r.Backoff)}
	}
	said := before.policy()
	if p.Timeouts != nil && said != nil && said.Timeouts != nil {
		// A timeout of zero is none, and none is what revision 0 has without a word.
		said.Timeouts.Request, said.Timeouts.BackendRequest = p.Timeouts.Request, p.Timeouts.BackendRequest
	}
	return before, reflect.DeepEqual(said, p)
}

// policy is what revision 0 says, as a Policy; nil if it says nothing.
func (b routeBefore) policy() *Policy {
	var p Policy
	if t := b.Timeouts; t != (timeoutsBefore{}) {
		p.Timeouts = &Timeouts{Request: orNil(t.Request), BackendRequest: orNil(t.BackendRequest)}
	}
	if r := b.Retry; r != nil {
		p.Retry = &Retry{Attempts: &r.Attempts, Codes: r.Codes, Backoff: orNil(r.Backoff)}
		if len(r.Codes) > 0 {
			p.Retry.Methods = new(RetryAll)
		}
	}
	if p.Timeouts == nil && p.Retry == nil {
		return nil
	}
	return &p
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

func orNil(d Duration) *Duration {
	if d == 0 {
		return nil
	}
	return &d
}

// plainRoute is Route without its methods.
type plainRoute Route

// MarshalJSON implements json.Marshaler.
func (r Route) MarshalJSON() ([]byte, error) {
	before, _ := beforePolicy(r.Policy)
	return json.Marshal(struct {
		plainRoute
		routeBefore
	}{plainRoute(r), before})
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Route) UnmarshalJSON(data []byte) error {
	var both struct {
		plainRoute
		routeBefore
	}
	if err := json.Unmarshal(data, &both); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	*r = Route(both.plainRoute)
	if r.Policy == nil {
		r.Policy = both.policy()
	}
	return nil
}
