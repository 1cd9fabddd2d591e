package filelock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestAcquireWaitsForTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "lock")
	release, err := Acquire(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Acquire(canceled, path); !errors.Is(err, context.Canceled) {
		t.Fatalf("Acquire() of a held lock = %v, want %v", err, context.Canceled)
	}
	waiting := make(chan error, 1)
	go func() {
		release, err := Acquire(t.Context(), path)
		if err == nil {
			release()
		}
		waiting <- err
	}()
	release()
	if err := <-waiting; err != nil {
		t.Errorf("Acquire() after the release: %v", err)
	}
}
