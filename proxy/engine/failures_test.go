package engine

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// TestFailureLogNamesEachReasonOncePerSecond for operators, and every failure at debug level.
func TestFailureLogNamesEachReasonOncePerSecond(t *testing.T) {
	var l failureLog
	now := time.Now()
	var got []string
	for _, line := range []struct {
		after time.Duration
		why   reason.Reason
	}{
		{0, reason.Connect},
		{0, reason.NoEndpoints},
		{300 * time.Millisecond, reason.Connect},
		{600 * time.Millisecond, reason.Connect},
		{200 * time.Millisecond, reason.Connect},
		{time.Minute, reason.NoEndpoints},
	} {
		now = now.Add(line.after)
		level, unseen := l.level(line.why, now)
		got = append(got, fmt.Sprintln(level, line.why, unseen))
	}
	want := []string{
		"INFO connect_failure 0\n", "INFO no_endpoints 0\n", "DEBUG connect_failure 0\n", "DEBUG connect_failure 0\n",
		"INFO connect_failure 2\n", "INFO no_endpoints 0\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("levels (-want +got):\n%s", diff)
	}
}

func TestFailedRequestsAreLogged(t *testing.T) {
	logged := make(logLines, 100)
	p := newProxy(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(logged, nil)) })
	p.apply(service("cart", wire.ProtocolHTTP)...)
	if got := get(t, p.listen(key("cart")), "/"); got.reason() != string(reason.NoEndpoints) {
		t.Fatalf("answer = %v", got)
	}
	var seen []string
	for len(logged) > 0 {
		if line := <-logged; strings.Contains(line, "reason=no_endpoints") {
			seen = append(seen, line)
		}
	}
	if len(seen) != 1 {
		t.Errorf("lines that name the reason: %q, want one", seen)
	}
}

// logLines receives what is logged, line by line.
type logLines chan string

func (l logLines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
