// Package http is the pure layer 7 core of Weft: request and response heads, the choice of the route
// rule that a request takes, and the filters of that rule. The proxy serves traffic with it, the
// operator and the command line try routes with it, so all three always agree.
//
// It maps values to values. It must not do I/O, read a clock or draw random numbers (callers supply
// them), and it must not use net/http types, so that the HTTP engines underneath can be exchanged. It
// knows nothing of Kubernetes but what wire resources say.
//
// A request passes through the package in this order:
//
//	err := req.SetTarget(target)                  // one normalisation, matched and forwarded alike
//	StripHopByHop(&req.Header, upgrade)
//	rule, matched := table.Match(&req)            // nil: no rule matched
//	x := Exchange{Rule: rule, Matched: matched, Port: port, Random: random}
//	answer := x.Request(&req)                     // not nil: a redirection or a preflight answer
//	i, ok := rule.Pick(random)                    // not ok: the rule has nowhere to go
//	answer = x.BackendRequest(i, &req, &try)      // per try, onto a copy
//	x.Response(i, &res)                           // on the way back
package http
