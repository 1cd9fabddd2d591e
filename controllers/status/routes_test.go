package status

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

var (
	earlier = metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	later   = metav1.NewTime(earlier.Add(time.Hour))
)

func service(name string) gwv1.ParentReference {
	group, kind := gwv1.Group(""), gwv1.Kind("Service")
	return gwv1.ParentReference{Group: &group, Kind: &kind, Name: gwv1.ObjectName(name)}
}

func foreign(name string) gwv1.RouteParentStatus {
	return gwv1.RouteParentStatus{
		ParentRef: service(name), ControllerName: "example.com/other",
		Conditions: []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, LastTransitionTime: earlier}},
	}
}

func accepted(generation int64, names ...string) compile.RouteStatus {
	s := compile.RouteStatus{Generation: generation}
	for _, name := range names {
		s.Parents = append(s.Parents, compile.ParentStatus{ParentRef: service(name), Conditions: []metav1.Condition{
			{Type: string(gwv1.RouteConditionAccepted), Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: generation},
		}})
	}
	return s
}

func owners(parents []gwv1.RouteParentStatus) []string {
	var out []string
	for _, p := range parents {
		owner := "other"
		if p.ControllerName == meshv1alpha1.ControllerName {
			owner = "weft"
		}
		out = append(out, owner+":"+string(p.ParentRef.Name))
	}
	return out
}

func TestMergeKeepsForeignEntriesAndOrder(t *testing.T) {
	ours := Merge(nil, accepted(1, "a", "b"), make([]Progress, 2), earlier)
	cases := map[string]struct {
		existing []gwv1.RouteParentStatus
		desired  compile.RouteStatus
		want     []string
	}{
		"first write":               {desired: accepted(1, "a", "b"), want: []string{"weft:a", "weft:b"}},
		"foreign entries stay":      {existing: []gwv1.RouteParentStatus{foreign("a"), ours[0], foreign("b")}, desired: accepted(1, "a"), want: []string{"other:a", "weft:a", "other:b"}},
		"a removed parent goes":     {existing: []gwv1.RouteParentStatus{ours[0], foreign("x"), ours[1]}, desired: accepted(1, "b"), want: []string{"other:x", "weft:b"}},
		"a new parent comes last":   {existing: []gwv1.RouteParentStatus{ours[1], foreign("x")}, desired: accepted(1, "a", "b"), want: []string{"weft:b", "other:x", "weft:a"}},
		"no parent of ours is left": {existing: []gwv1.RouteParentStatus{ours[0], foreign("x")}, desired: accepted(1), want: []string{"other:x"}},
		"an entry listed twice":     {existing: []gwv1.RouteParentStatus{ours[0], ours[0]}, desired: accepted(1, "a"), want: []string{"weft:a"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := Merge(tc.existing, tc.desired, make([]Progress, len(tc.desired.Parents)), later)
			if diff := cmp.Diff(tc.want, owners(got)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProgrammed(t *testing.T) {
	refused := accepted(2, "a")
	refused.Parents[0].Conditions[0].Status = metav1.ConditionFalse
	programmedBefore := Merge(nil, accepted(1, "a"), []Progress{{Acknowledged: 2, Proxies: 2}}, earlier)
	cases := map[string]struct {
		existing    []gwv1.RouteParentStatus
		desired     compile.RouteStatus
		progress    Progress
		wantStatus  metav1.ConditionStatus
		wantReason  string
		wantMessage string
		wantTime    metav1.Time
	}{
		"all have acknowledged": {
			desired: accepted(1, "a"), progress: Progress{Acknowledged: 2, Proxies: 2},
			wantStatus: metav1.ConditionTrue, wantReason: ReasonProgrammed, wantTime: later,
			wantMessage: "acknowledged by every ready proxy concerned",
		},
		"one has not": {
			desired: accepted(1, "a"), progress: Progress{Acknowledged: 1, Proxies: 2},
			wantStatus: metav1.ConditionFalse, wantReason: ReasonPending, wantTime: later,
			wantMessage: "acknowledged by 1 of 2 proxies",
		},
		"there is no proxy": {
			desired:    accepted(1, "a"),
			wantStatus: metav1.ConditionFalse, wantReason: ReasonPending, wantTime: later,
			wantMessage: "no proxy concerned is connected yet",
		},
		"it latches while proxies come and go": {
			existing: programmedBefore, desired: accepted(1, "a"), progress: Progress{Acknowledged: 1, Proxies: 2},
			wantStatus: metav1.ConditionTrue, wantReason: ReasonProgrammed, wantTime: earlier,
			wantMessage: "acknowledged by every ready proxy concerned",
		},
		"a new generation begins anew": {
			existing: programmedBefore, desired: accepted(2, "a"), progress: Progress{Acknowledged: 1, Proxies: 2},
			wantStatus: metav1.ConditionFalse, wantReason: ReasonPending, wantTime: later,
			wantMessage: "acknowledged by 1 of 2 proxies",
		},
		"what is not accepted is not programmed": {
			existing: programmedBefore, desired: refused, progress: Progress{Acknowledged: 2, Proxies: 2},
			wantStatus: metav1.ConditionFalse, wantReason: ReasonNotAccepted, wantTime: later,
			wantMessage: "the route is not accepted",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := Merge(tc.existing, tc.desired, []Progress{tc.progress}, later)
			want := &metav1.Condition{
				Type: ConditionProgrammed, Status: tc.wantStatus, Reason: tc.wantReason, Message: tc.wantMessage,
				ObservedGeneration: tc.desired.Generation, LastTransitionTime: tc.wantTime,
			}
			if diff := cmp.Diff(want, meta.FindStatusCondition(got[0].Conditions, ConditionProgrammed)); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	at := func(generation int64, p Progress, now metav1.Time) []gwv1.RouteParentStatus {
		return Merge([]gwv1.RouteParentStatus{foreign("a")}, accepted(generation, "a"), []Progress{p}, now)
	}
	cases := map[string]struct {
		a, b []gwv1.RouteParentStatus
		want Change
	}{
		"times do not count":       {at(1, Progress{Acknowledged: 2, Proxies: 2}, earlier), at(1, Progress{Acknowledged: 2, Proxies: 2}, later), Same},
		"only the counts moved":    {at(1, Progress{Acknowledged: 0, Proxies: 2}, earlier), at(1, Progress{Acknowledged: 1, Proxies: 2}, later), Counts},
		"it became programmed":     {at(1, Progress{Acknowledged: 1, Proxies: 2}, earlier), at(1, Progress{Acknowledged: 2, Proxies: 2}, later), Different},
		"another generation":       {at(1, Progress{Acknowledged: 2, Proxies: 2}, earlier), at(2, Progress{Acknowledged: 2, Proxies: 2}, earlier), Different},
		"there was no status":      {nil, at(1, Progress{Acknowledged: 2, Proxies: 2}, later), Different},
		"nothing and nothing":      {nil, []gwv1.RouteParentStatus{}, Same},
		"our entry is not present": {at(1, Progress{Acknowledged: 2, Proxies: 2}, earlier), []gwv1.RouteParentStatus{foreign("a")}, Different},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Compare(tc.a, tc.b); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
