package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/bench/propagation/probe"
)

func TestAwaitFollowsOneEdit(t *testing.T) {
	t.Parallel()
	at := func(n int64) int64 { return int64(time.Second) + n*int64(time.Millisecond) }
	all := []sight{{at: at(12), edit: 7}, {at: at(40), edit: 7, programmed: true}}
	tests := map[string]struct {
		sights       []sight
		observations []probe.Observation
		want         edit
		wantWrong    int
	}{
		"both connections": {
			sights: all,
			observations: []probe.Observation{
				{Connection: 1, Ended: at(30), Gap: 500_000, Edit: "7", Backend: "v2"},
				{Connection: 0, Ended: at(33), Gap: 900_000, Edit: "7", Backend: "v2"},
			},
			want: edit{effect: 30 * ms, everywhere: 33 * ms, watch: 12 * ms, programmed: 40 * ms, gap: 500 * time.Microsecond},
		},
		"what belongs to the edit before does not count": {
			sights: append([]sight{{at: at(1), edit: 6, programmed: true}}, all...),
			observations: []probe.Observation{
				{Connection: 1, Ended: at(2), Edit: "6", Backend: "v1"},
				{Connection: 1, Ended: at(30), Gap: 1, Edit: "7", Backend: "v2"},
				{Connection: 0, Ended: at(33), Edit: "7", Backend: "v2"},
			},
			want: edit{effect: 30 * ms, everywhere: 33 * ms, watch: 12 * ms, programmed: 40 * ms, gap: 1},
		},
		"a failure with the edit's mark is no effect": {
			sights: all,
			observations: []probe.Observation{
				{Connection: 1, Ended: at(20), Edit: "7", Failure: "503 Service Unavailable"},
				{Connection: 1, Ended: at(30), Gap: 1, Edit: "7", Backend: "v2"},
				{Connection: 0, Ended: at(33), Edit: "7", Backend: "v2"},
			},
			want: edit{effect: 30 * ms, everywhere: 33 * ms, watch: 12 * ms, programmed: 40 * ms, gap: 1},
		},
		"the wrong backend": {
			sights: all,
			observations: []probe.Observation{
				{Connection: 1, Ended: at(30), Gap: 1, Edit: "7", Backend: "v1"},
				{Connection: 0, Ended: at(33), Edit: "7", Backend: "v2"},
			},
			want:      edit{effect: 30 * ms, everywhere: 33 * ms, watch: 12 * ms, programmed: 40 * ms, gap: 1},
			wantWrong: 1,
		},
		"no effect": {
			sights: all,
			want:   edit{watch: 12 * ms, programmed: 40 * ms},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sights, observations := make(chan sight, 8), make(chan probe.Observation, 8)
				for _, s := range tc.sights {
					sights <- s
				}
				for _, a := range tc.observations {
					observations <- a
				}
				o := &observer{sights: sights, observations: observations}
				got, err := o.await(t.Context(), 7, int64(time.Second))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(edit{})); diff != "" {
					t.Errorf("edit (-want +got):\n%s", diff)
				}
				if o.wrong != tc.wantWrong {
					t.Errorf("%d wrong answers, want %d", o.wrong, tc.wantWrong)
				}
			})
		})
	}
}

func TestAwaitFailsWhenNothingReportsAnyMore(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	ended := make(chan error, 1)
	ended <- broken
	o := &observer{ended: ended}
	if _, err := o.await(t.Context(), 1, 0); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func TestAwaitRefusesAForeignClock(t *testing.T) {
	t.Parallel()
	tests := map[string]int64{
		"before the write": -1,
		"in the future":    probe.Now() + int64(time.Hour),
	}
	for name, ended := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			observations := make(chan probe.Observation, 1)
			observations <- probe.Observation{Ended: ended, Edit: "7", Backend: backendOf(7)}
			o := &observer{observations: observations}
			if _, err := o.await(t.Context(), 7, 0); !errors.Is(err, errForeignClock) {
				t.Errorf("error %v, want %v", err, errForeignClock)
			}
		})
	}
}

func TestReadEndsWithAnError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text     string
		want     []probe.Observation
		wantPart string
	}{
		"the end":       {text: `{"edit":"1"}` + "\n", want: []probe.Observation{{Edit: "1"}}, wantPart: io.ErrUnexpectedEOF.Error()},
		"another story": {text: "panic: no\n", wantPart: `"panic: no"`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			observations := make(chan probe.Observation, 8)
			err := read(strings.NewReader(tc.text), observations)
			if err == nil || !strings.Contains(err.Error(), tc.wantPart) {
				t.Errorf("error %v, want one with %q", err, tc.wantPart)
			}
			close(observations)
			var got []probe.Observation
			for o := range observations {
				got = append(got, o)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("observations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEditOfAndProgrammedReadTheRoute(t *testing.T) {
	t.Parallel()
	written := route()
	written.Spec.Rules = rules(17)
	if got := editOf(written); got != 17 {
		t.Errorf("edit %d, want 17", got)
	}
	written.Spec.Rules = nil
	if got := editOf(written); got != -1 {
		t.Errorf("edit %d of a route without rules, want -1", got)
	}
	status := func(controller gwv1.GatewayController, status metav1.ConditionStatus, generation int64) []gwv1.RouteParentStatus {
		return []gwv1.RouteParentStatus{{
			ControllerName: controller,
			Conditions:     []metav1.Condition{{Type: "Programmed", Status: status, ObservedGeneration: generation}},
		}}
	}
	tests := map[string]struct {
		parents []gwv1.RouteParentStatus
		want    bool
	}{
		"no status":          {},
		"programmed":         {parents: status(meshv1alpha1.ControllerName, metav1.ConditionTrue, 3), want: true},
		"not yet":            {parents: status(meshv1alpha1.ControllerName, metav1.ConditionFalse, 3)},
		"an older one":       {parents: status(meshv1alpha1.ControllerName, metav1.ConditionTrue, 2)},
		"another controller": {parents: status("example.com/other", metav1.ConditionTrue, 3)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := route()
			r.Generation, r.Status.Parents = 3, tc.parents
			if got := programmed(r); got != tc.want {
				t.Errorf("programmed = %v, want %v", got, tc.want)
			}
		})
	}
}
