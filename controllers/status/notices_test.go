package status

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// told returns the Events that were made since the last call.
func told(recorder *events.FakeRecorder) []string {
	var all []string
	for {
		select {
		case e := <-recorder.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func TestRefusals(t *testing.T) {
	is := func(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
	}
	no := metav1.ConditionFalse
	accepted := is("Accepted", metav1.ConditionTrue, "Accepted", "")
	for name, tc := range map[string]struct {
		before, after []metav1.Condition
		want          []refusal
	}{
		"accepted":                  {after: []metav1.Condition{accepted}},
		"a new object":              {after: []metav1.Condition{is("Accepted", no, "Invalid", "spec.retry")}, want: []refusal{{"Accept", "Invalid", "web: spec.retry"}}},
		"what was accepted":         {before: []metav1.Condition{accepted}, after: []metav1.Condition{is("Accepted", no, "Invalid", "x")}, want: []refusal{{"Accept", "Invalid", "web: x"}}},
		"what was refused before":   {before: []metav1.Condition{is("Accepted", no, "Invalid", "x")}, after: []metav1.Condition{is("Accepted", no, "Invalid", "x")}},
		"for another fault":         {before: []metav1.Condition{is("Accepted", no, "Invalid", "x")}, after: []metav1.Condition{is("Accepted", no, "Invalid", "y")}, want: []refusal{{"Accept", "Invalid", "web: y"}}},
		"a backend is missing":      {after: []metav1.Condition{accepted, is("ResolvedRefs", no, "BackendNotFound", "v2")}, want: []refusal{{"Resolve", "BackendNotFound", "web: v2"}}},
		"on its way":                {after: []metav1.Condition{accepted, is("Programmed", no, "Pending", "0 of 2")}},
		"bypassable":                {after: []metav1.Condition{is("Enforced", no, compile.ReasonBypassable, "1 of 2")}, want: []refusal{{"Enforce", "Bypassable", "web: 1 of 2"}}},
		"bypassable in more places": {before: []metav1.Condition{is("Enforced", no, compile.ReasonBypassable, "1 of 2")}, after: []metav1.Condition{is("Enforced", no, compile.ReasonBypassable, "1 of 3")}},
		"audit":                     {after: []metav1.Condition{is("Enforced", no, compile.ReasonAudit, "only counts")}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, refusals(tc.before, tc.after, "web: "), cmp.AllowUnexported(refusal{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	long := refusals(nil, []metav1.Condition{is("Accepted", no, "Invalid", strings.Repeat("x", 5000))}, "")
	if len(long[0].note) > 1024 {
		t.Errorf("a note of %d bytes, an Event holds 1024", len(long[0].note))
	}
}

// TestEventsOfRefusals: one for each refusal when it comes, and none while an object goes back and forth.
func TestEventsOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		r.proxies.set(2, 2)
		refused := func(generation int64, message string) compile.RouteStatus {
			s := desired()
			s.Parents[0].Conditions = []metav1.Condition{
				{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: generation},
				{Type: "ResolvedRefs", Status: metav1.ConditionFalse, Reason: "BackendNotFound", ObservedGeneration: generation, Message: message},
			}
			return s
		}
		write := func(s compile.RouteStatus) {
			r.writer.Update(routes(s))
			r.after(time.Second)
		}
		write(desired())
		if got := told(r.events); len(got) > 0 {
			t.Errorf("Events of an accepted route: %v", got)
		}
		write(refused(1, "Service shop/v2 does not exist"))
		want := []string{"Warning BackendNotFound Service web: Service shop/v2 does not exist"}
		if diff := cmp.Diff(want, told(r.events)); diff != "" {
			t.Errorf("Events (-want +got):\n%s", diff)
		}
		r.after(noticeInterval)
		write(refused(1, "Service shop/v2 does not exist"))
		if got := told(r.events); len(got) > 0 {
			t.Errorf("Events of a refusal that stays: %v", got)
		}
		for i := range 10 { // 20 seconds
			write(desired())
			write(refused(1, fmt.Sprint("fault ", i)))
		}
		if got := told(r.events); len(got) == 0 || len(got) > 3 {
			t.Errorf("%d Events of a route that goes back and forth for 20 s: %v", len(got), got)
		}
	})
}

func TestEventsOfEverything(t *testing.T) {
	recorder := events.NewFakeRecorder(1000)
	n := newNotices(recorder)
	now := time.Now()
	for range 500 {
		n.tell(httpRoute(), []refusal{{"Accept", "Invalid", "x"}}, time.Time{}, now)
	}
	if got := len(told(recorder)); got != noticeBurst {
		t.Errorf("%d Events at once, want %d", got, noticeBurst)
	}
}

func TestRefusedParents(t *testing.T) {
	no := []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionFalse, Reason: "NoMatchingParent", Message: "x"}}
	ours := gwv1.RouteParentStatus{ParentRef: gwv1.ParentReference{Name: "web"}, ControllerName: meshv1alpha1.ControllerName, Conditions: no}
	others := gwv1.RouteParentStatus{ParentRef: gwv1.ParentReference{Name: "gateway"}, ControllerName: "example.com/other", Conditions: no}
	got := refusedParents(nil, []gwv1.RouteParentStatus{others, ours})
	if diff := cmp.Diff([]refusal{{"Accept", "NoMatchingParent", "Service web: x"}}, got, cmp.AllowUnexported(refusal{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := refusedParents([]gwv1.RouteParentStatus{ours}, []gwv1.RouteParentStatus{ours}); got != nil {
		t.Errorf("what was refused before: %v", got)
	}
}
