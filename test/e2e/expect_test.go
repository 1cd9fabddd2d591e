//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// tries is how often a request is sent whose answer must always be the same: each goes on a connection of
// its own, so both proxies of a namespace are asked.
const tries = 8

// expect waits until a client is captured and then sends a request several times. Nothing may be wrong
// with any answer.
func expect(t *testing.T, client *testbed.Pod, r traffic.Request, wrong func(a *traffic.Answer) string) {
	t.Helper()
	captured(t, client, r)
	always(t, client, r, wrong)
}

// always is expect for a client that is known to be captured.
func always(t *testing.T, client *testbed.Pod, r traffic.Request, wrong func(a *traffic.Answer) string) {
	t.Helper()
	for range tries {
		a := client.Send(t, r)
		if w := wrong(&a); w != "" {
			t.Fatalf("%s %s: %s; the answer: %s", r.Protocol, r.URL, w, show(&a))
		}
	}
}

// eventually sends a request until nothing is wrong with the answer.
func eventually(t *testing.T, client *testbed.Pod, r traffic.Request, wrong func(a *traffic.Answer) string) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		a, err := client.Try(ctx, r)
		if err != nil {
			return err
		}
		if w := wrong(&a); w != "" {
			return fmt.Errorf("%s %s: %s; the answer: %s", r.Protocol, r.URL, w, show(&a))
		}
		return nil
	})
}

// show formats an answer for messages.
func show(a *traffic.Answer) string {
	text := fmt.Sprintf("status %d, header %v, error %q, body %q after %s", a.Status, a.Header, a.Error, a.Body, a.Ended.Sub(a.Sent))
	if a.Echo != nil {
		text += fmt.Sprintf(", from %+v", *a.Echo)
	}
	return text
}

// from says what is wrong with an answer that must be a success from a version.
func from(version string) func(*traffic.Answer) string {
	return func(a *traffic.Answer) string {
		if a.Error != "" || a.Echo == nil || a.Status != http.StatusOK && a.Status != 0 && a.Status != http.StatusSwitchingProtocols {
			return "no success"
		}
		if a.Echo.Version != version {
			return fmt.Sprintf("from version %q, want %q", a.Echo.Version, version)
		}
		return ""
	}
}

// direct says what is wrong with an answer of v1 that must have gone past the proxies.
func direct(sender *testbed.Pod) func(*traffic.Answer) string {
	return func(a *traffic.Answer) string {
		switch wrong := from("v1")(a); {
		case wrong != "":
			return wrong
		case !sender.Has(a.Echo.Peer) || a.Echo.Get(traffic.MarkHeader) != "":
			return "through a proxy"
		}
		return ""
	}
}

// local says what is wrong with an answer that a proxy must have made itself.
func local(status int, reason string) func(*traffic.Answer) string {
	return func(a *traffic.Answer) string {
		if a.Error != "" || a.Status != status || a.Get("Weft-Reason") != reason {
			return fmt.Sprintf("want status %d because of %s", status, reason)
		}
		return ""
	}
}

// wantCondition says what is wrong with a condition.
func wantCondition(conditions []metav1.Condition, kind string, status metav1.ConditionStatus, reason string) string {
	c := meta.FindStatusCondition(conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason {
		return fmt.Sprintf("want %s=%s %s, have: %s", kind, status, reason, testbed.Describe(conditions))
	}
	return ""
}
