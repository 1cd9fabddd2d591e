//go:build e2e

package lifecycle

import (
	"testing"
	"time"

	"weft.dev/weft/test/e2e/testbed"
)

// back is how soon after everything was deleted at once traffic must flow again.
const back = 30 * time.Second

// TestRemoveAtOnce deletes everything in one go, with strict ports and under load.
func TestRemoveAtOnce(t *testing.T) {
	bed := connected(t)
	if err := bed.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := newTown(t, bed)
	bed.Enforce(t, testbed.MeshPolicy(t, w.home, "metadata: {name: strict}\nspec: {mtls: {mode: Strict}}"))
	installed := must(t)(manifests())
	loads := w.loads(t)
	for _, l := range loads {
		l.More(10)
	}
	begin := time.Now()
	must(t)(kubectl(installed, "delete", "--ignore-not-found", "-f", "-"))
	t.Logf("kubectl delete took %s", time.Since(begin).Round(time.Millisecond))
	for _, c := range w.clients {
		w.await(t, c, "")
	}
	for _, l := range loads {
		l.More(60) // over connections that stay and over new ones, three seconds of each
	}
	sent, failed := failures(loads)
	last := begin
	for _, s := range failed {
		if s.Ended.After(last) {
			last = s.Ended
		}
	}
	t.Logf("%d of %d requests failed, the last %s after the deletion began", len(failed), sent, last.Sub(begin).Round(time.Millisecond))
	if last.Sub(begin) > back {
		t.Errorf("requests failed for %s, want traffic back after %s", last.Sub(begin), back)
	}
	w.nothingRemains(t, bed, true)
}

// unharmed stops loads and fails for every request that failed.
func unharmed(t *testing.T, loads []*testbed.Load) {
	t.Helper()
	sent, failed := failures(loads)
	for i, s := range failed {
		if i < 5 {
			t.Errorf("a request at %s failed: %s", s.Sent.Format(time.TimeOnly), s.Failure)
		}
	}
	t.Logf("%d of %d requests failed", len(failed), sent)
}
