package status

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/compile"
)

// TestProxiesOfAnEarlierRelease: what a proxy acknowledges and does not know is not in force, and what was in force is
// not any more when such a proxy comes.
func TestProxiesOfAnEarlierRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outdated = "False Pending: 1 of 2 proxies are of an earlier release and do not know what it asks for; see the condition ProxiesCurrent of the Mesh"
		r := newRig(t, meshPolicy())
		r.proxies.set(2, 2)
		r.proxies.age(1)
		r.writer.Update(policies(desiredPolicy("web")))
		r.after(time.Second)
		r.expectPolicy(1, outdated, outdated)
		r.proxies.age(0)
		r.writer.Acknowledged()
		r.after(time.Second)
		r.expectPolicy(2, done, done)
		r.proxies.age(1)
		r.writer.ReleasesChanged()
		r.after(time.Minute)
		r.expectPolicy(3, outdated, outdated)
	})
}

func TestEnforcedByProxiesOfAnEarlierRelease(t *testing.T) {
	p := Progress{Acknowledged: 1, Proxies: 2, Outdated: 1}
	c := unknownTo(p, metav1.Condition{Status: metav1.ConditionTrue, Reason: compile.ReasonEnforced, Message: "all 2 pods refuse"})
	if c.Status != metav1.ConditionFalse || c.Reason != compile.ReasonBypassable || strings.Contains(c.Message, "all 2 pods") {
		t.Errorf("what was enforced is %+v", c)
	}
	c = unknownTo(p, metav1.Condition{Status: metav1.ConditionFalse, Reason: compile.ReasonAudit, Message: "only counts"})
	if c.Reason != compile.ReasonAudit || !strings.Contains(c.Message, "only counts; 1 of 2 proxies") {
		t.Errorf("what is not enforced anyway is %+v", c)
	}
}
