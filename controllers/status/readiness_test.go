package status

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

func said(condition string, is metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: condition, Status: is, Reason: reason, Message: message, ObservedGeneration: 1}
}

func target(name string, conditions ...metav1.Condition) gwv1.PolicyAncestorStatus {
	return gwv1.PolicyAncestorStatus{AncestorRef: service(name), Conditions: conditions}
}

// TestReadiness: what follows from the conditions of GEP-713, and what kstatus makes of that.
func TestReadiness(t *testing.T) {
	var (
		accepted    = said("Accepted", "True", "Accepted", "in force for Service shop/web")
		programmed  = said("Programmed", "True", "Programmed", "acknowledged by every ready proxy concerned")
		pending     = said("Programmed", "False", "Pending", "acknowledged by 1 of 2 proxies")
		notAccepted = said("Programmed", "False", "NotAccepted", "the policy is not accepted")
		notFound    = said("Accepted", "False", "TargetNotFound", "Service shop/api does not exist")
		conflicted  = said("Accepted", "False", "Conflicted", "MeshPolicy shop/old is for Service shop/web already")
		invalid     = said("Accepted", "False", "Invalid", "spec.timeouts.request: is negative")
	)
	type conditions = []metav1.Condition
	tests := map[string]struct {
		overall   conditions
		ancestors []gwv1.PolicyAncestorStatus
		want      conditions
		kstatus   kstatus.Status
	}{
		"in force": {
			conditions{accepted, programmed}, []gwv1.PolicyAncestorStatus{target("web", accepted, programmed)},
			conditions{said("Ready", "True", "Ready", programmed.Message)}, kstatus.CurrentStatus,
		},
		"in force, and something else is missing": {
			conditions{accepted, programmed, said("Enforced", "False", "Bypassable", ""), said("KeysAvailable", "False", "FetchFailed", "")},
			[]gwv1.PolicyAncestorStatus{target("web", accepted, programmed)},
			conditions{said("Ready", "True", "Ready", programmed.Message+"; Enforced is False, see there; KeysAvailable is False, see there")},
			kstatus.CurrentStatus,
		},
		"on its way": {
			conditions{accepted, pending}, []gwv1.PolicyAncestorStatus{target("web", accepted, pending)},
			conditions{said("Ready", "False", "Pending", pending.Message), said("Reconciling", "True", "Pending", pending.Message)},
			kstatus.InProgressStatus,
		},
		"on its way for one of two": {
			conditions{accepted, pending},
			[]gwv1.PolicyAncestorStatus{target("web", accepted, programmed), target("api", accepted, pending)},
			conditions{
				said("Ready", "False", "Pending", "Service api: acknowledged by 1 of 2 proxies"),
				said("Reconciling", "True", "Pending", "Service api: acknowledged by 1 of 2 proxies"),
			}, kstatus.InProgressStatus,
		},
		"invalid": {
			conditions{invalid, notAccepted}, []gwv1.PolicyAncestorStatus{target("web", invalid, notAccepted)},
			conditions{said("Ready", "False", "Invalid", invalid.Message), said("Stalled", "True", "Invalid", invalid.Message)},
			kstatus.FailedStatus,
		},
		"without a target that is one": {
			conditions{invalid, notAccepted}, nil,
			conditions{said("Ready", "False", "Invalid", invalid.Message), said("Stalled", "True", "Invalid", invalid.Message)},
			kstatus.FailedStatus,
		},
		"one of two may yet be created": {
			conditions{notFound, notAccepted},
			[]gwv1.PolicyAncestorStatus{target("web", accepted, programmed), target("api", notFound, notAccepted)},
			conditions{said("Ready", "False", "TargetNotFound", notFound.Message), said("Reconciling", "True", "TargetNotFound", notFound.Message)},
			kstatus.InProgressStatus,
		},
		"one may yet be created, another is refused": {
			conditions{notFound, notAccepted},
			[]gwv1.PolicyAncestorStatus{target("api", notFound, notAccepted), target("web", conflicted, notAccepted)},
			conditions{said("Ready", "False", "Conflicted", notFound.Message), said("Stalled", "True", "Conflicted", notFound.Message)},
			kstatus.FailedStatus,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := readiness(1, tc.overall, tc.ancestors)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			p := meshPolicy()
			p.Status = meshv1alpha1.MeshPolicyStatus{ObservedGeneration: 1, Conditions: append(tc.overall, got...)}
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
			if err != nil {
				t.Fatal(err)
			}
			if result, err := kstatus.Compute(&unstructured.Unstructured{Object: content}); err != nil || result.Status != tc.kstatus {
				t.Errorf("kstatus: %+v, want %s (error %v)", result, tc.kstatus, err)
			}
		})
	}
}

// TestCustomResourceDefinitionOfAnEarlierRelease: a field that the API server does not keep is tried again when there
// is something to look at, and not otherwise.
func TestCustomResourceDefinitionOfAnEarlierRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, meshPolicy())
		r.proxies.set(2, 2)
		r.writer.Update(policies(desiredPolicy("web")))
		r.after(time.Second)
		written := r.expectPolicy(1, done, done)
		written.Status.ObservedGeneration = 0
		if err := r.client.Status().Update(t.Context(), written); err != nil { // which the rig counts
			t.Fatal(err)
		}
		r.prune = true
		for range 2 {
			r.writer.Observed(KindPolicy, client.ObjectKeyFromObject(written))
			r.after(time.Minute)
		}
		r.expectPolicy(4, done, done)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.reads > 10 {
			t.Errorf("the writer has looked %d times", r.reads)
		}
	})
}

// unchanged is what an API server answers that keeps nothing of what is new.
func unchanged(ctx context.Context, c client.Client, obj client.Object) error {
	return c.Get(ctx, client.ObjectKeyFromObject(obj), obj)
}
