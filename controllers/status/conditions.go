// Package status is the only writer of the statuses of routes and policies. The conditions are computed by pure functions
// from what compile decided and what proxies have acknowledged; the Writer compares and writes. It
// must not decide whether an object is valid, and it never touches what other controllers wrote.
package status

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/proxy/wire"
)

// ConditionProgrammed is True once every ready proxy concerned has acknowledged a route or policy. On a
// route's parent it is Weft's own condition. It latches for a generation: proxies that come later receive
// everything before they are ready.
const ConditionProgrammed = "Programmed"

// Reasons of ConditionProgrammed.
const (
	ReasonProgrammed  = "Programmed"
	ReasonPending     = "Pending"
	ReasonNotAccepted = "NotAccepted"
)

// Progress says how many of the ready proxies concerned have acknowledged something, and how many of them are of an
// earlier release that leaves some of it out, whether they have acknowledged it or not.
type Progress struct{ Acknowledged, Proxies, Outdated int }

// Done reports whether all of them have it in force. Nobody to acknowledge means that nothing serves it.
func (p Progress) Done() bool { return p.Proxies > 0 && p.Acknowledged == p.Proxies && p.Outdated == 0 }

// outdated says what proxies of an earlier release mean for an object.
func (p Progress) outdated() string {
	return fmt.Sprintf("%d of %d proxies are of an earlier release and do not know what it asks for", p.Outdated, p.Proxies)
}

// add counts the proxies of an audience.
func (p *Progress) add(acks Acknowledgements, audience []string, held []wire.Held) {
	for _, namespace := range audience {
		acknowledged, concerned := acks.Holds(namespace, held)
		p.Acknowledged += acknowledged
		p.Proxies += concerned
		p.Outdated += acks.Outdated(namespace, held)
	}
}

// waiting is what decides about a condition Programmed.
type waiting struct {
	generation int64
	accepted   bool
	// what names the object for a message; idle says why there is nothing to wait for, if there is not.
	what, idle string
	progress   Progress
}

// programmed makes the condition. Once it is True in a generation it stays so, unless proxies of an earlier release
// come.
func (w waiting) programmed(existing []metav1.Condition) metav1.Condition {
	c := metav1.Condition{Type: ConditionProgrammed, Status: metav1.ConditionFalse, ObservedGeneration: w.generation}
	before := meta.FindStatusCondition(existing, ConditionProgrammed)
	latched := before != nil && before.Status == metav1.ConditionTrue && before.ObservedGeneration == w.generation
	switch {
	case !w.accepted:
		c.Reason, c.Message = ReasonNotAccepted, w.what+" is not accepted"
	case w.idle == "" && w.progress.Outdated > 0:
		c.Reason, c.Message = ReasonPending, w.progress.outdated()+"; see the condition ProxiesCurrent of the Mesh"
	case latched || w.idle == "" && w.progress.Done():
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, "acknowledged by every ready proxy concerned"
	case w.idle != "":
		c.Reason, c.Message = ReasonPending, w.idle
	case w.progress.Proxies == 0:
		c.Reason, c.Message = ReasonPending, "no proxy concerned is connected yet"
	default:
		c.Reason, c.Message = ReasonPending, fmt.Sprintf("acknowledged by %d of %d proxies", w.progress.Acknowledged, w.progress.Proxies)
	}
	return c
}

// timed returns conditions with their times, which move only with a condition's status.
func timed(conditions, existing []metav1.Condition, now metav1.Time) []metav1.Condition {
	out := make([]metav1.Condition, len(conditions))
	for i, want := range conditions {
		want.LastTransitionTime = now
		if have := meta.FindStatusCondition(existing, want.Type); have != nil && have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		out[i] = want
	}
	return out
}

// pending tells whether conditions wait for acknowledgements.
func pending(conditions []metav1.Condition) bool {
	c := meta.FindStatusCondition(conditions, ConditionProgrammed)
	return c != nil && c.Reason == ReasonPending
}

// clearTimes takes the times out of conditions and, on demand, the messages that tell of progress.
func clearTimes(conditions []metav1.Condition, withoutCounts bool) {
	for i := range conditions {
		c := &conditions[i]
		c.LastTransitionTime = metav1.Time{}
		if withoutCounts && c.Reason == ReasonPending {
			c.Message = ""
		}
	}
}

// Change says how two statuses differ, for the decision when to write.
type Change int

// The kinds of changes, in the order of their urgency.
const (
	// Same means that nothing needs to be written.
	Same Change = iota
	// Counts means that only texts about how many proxies have acknowledged something differ.
	Counts
	// Different means anything else.
	Different
)
