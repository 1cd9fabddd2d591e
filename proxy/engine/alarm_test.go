package engine

import (
	"runtime"
	"testing"
	"time"
	"weak"
)

// An exchange whose memory is not used again is gone when it has ended, not when the time is over that it had.
func TestAlarmKeepsNoMemory(t *testing.T) {
	begun := func() weak.Pointer[memory] {
		m := memories.Get().(*memory) //nolint:forcetypeassert // New returns one
		now := time.Now()
		m.alarm.begin(now, deadlines{whole: now.Add(time.Hour), cause: errDeadline}, time.Hour, time.Hour)
		m.alarm.end()
		return weak.Make(m)
	}()
	for deadline := time.Now().Add(patience); begun.Value() != nil; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("its timer keeps it")
		}
	}
}
