package status

import (
	"slices"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

const (
	// noticeInterval is the least time between the Events about one object.
	noticeInterval = 10 * time.Second
	// noticeRate and noticeBurst bound the Events about all objects together, per second: a mistake that ten
	// thousand routes share must not flood the API server.
	noticeRate, noticeBurst = 5, 100
	// maxNote is how long the note of an Event may be (events.k8s.io/v1).
	maxNote = 1000
)

// refusal is a condition that says no and did not say so before.
type refusal struct{ action, reason, note string }

// refusedBy are the conditions whose False is a refusal, and what was to be done.
var refusedBy = map[string]string{
	string(gwv1.RouteConditionAccepted):     "Accept",
	string(gwv1.RouteConditionResolvedRefs): "Resolve",
	meshv1alpha1.AuthorizationEnforced:      "Enforce",
}

// refusals returns what the conditions after a write refuse that those before it did not, or refused for another
// reason. of names what they are about, if it is not the object itself.
func refusals(before, after []metav1.Condition, of string) []refusal {
	var out []refusal
	for _, c := range after {
		action := refusedBy[c.Type]
		if action == "" || c.Status != metav1.ConditionFalse {
			continue
		}
		// How much is enforced changes with every pod, and what follows from another condition or was asked for is no
		// news.
		counts := c.Type == meshv1alpha1.AuthorizationEnforced
		if counts && (c.Reason == compile.ReasonNotAccepted || c.Reason == compile.ReasonAudit) {
			continue
		}
		was := meta.FindStatusCondition(before, c.Type)
		if was != nil && was.Status == c.Status && was.Reason == c.Reason && (counts || was.Message == c.Message) {
			continue
		}
		note := of + c.Message
		out = append(out, refusal{action, c.Reason, note[:min(len(note), maxNote)]})
	}
	return out
}

// refusedParents is refusals for each parent of a route that is ours.
func refusedParents(before, after []gwv1.RouteParentStatus) []refusal {
	var out []refusal
	for i := range after {
		if after[i].ControllerName != meshv1alpha1.ControllerName {
			continue
		}
		var was []metav1.Condition
		at := slices.IndexFunc(before, func(p gwv1.RouteParentStatus) bool {
			return p.ControllerName == meshv1alpha1.ControllerName && sameParent(p.ParentRef, after[i].ParentRef)
		})
		if at >= 0 {
			was = before[at].Conditions
		}
		out = append(out, refusals(was, after[i].Conditions, "Service "+string(after[i].ParentRef.Name)+": ")...)
	}
	return out
}

// notices makes Events of refusals, so that whoever owns an object sees them where "kubectl describe" shows them. What
// they cannot say, because there was one just now, the status says.
type notices struct {
	recorder events.EventRecorder
	all      *rate.Limiter
}

func newNotices(recorder events.EventRecorder) notices {
	return notices{recorder: recorder, all: rate.NewLimiter(noticeRate, noticeBurst)}
}

// tell makes the Events about an object, unless the last ones about it were made just now. It tells whether it did.
func (n notices) tell(object client.Object, refused []refusal, last, now time.Time) bool {
	if n.recorder == nil || len(refused) == 0 || now.Sub(last) < noticeInterval {
		return false
	}
	for _, r := range refused {
		if n.all.AllowN(now, 1) {
			n.recorder.Eventf(object, nil, corev1.EventTypeWarning, r.reason, r.action, "%s", r.note)
		}
	}
	return true
}
