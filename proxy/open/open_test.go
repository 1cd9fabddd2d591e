package open

import (
	"context"
	"errors"
	"testing"
)

func TestDrainWaitsForTheLast(t *testing.T) {
	var s Set[int]
	if !s.Add(1) || !s.Add(2) || s.Ended() {
		t.Fatal("a connection was not taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	left := 0
	if err := s.Drain(ctx, func(int) { left++ }); !errors.Is(err, context.Canceled) || left != 2 {
		t.Fatalf("drain = %v after %d connections were told, want that it waits for 2", err, left)
	}
	if s.Add(3) || !s.Ended() {
		t.Error("a connection was taken after the end")
	}
	s.Remove(1)
	done := make(chan error)
	go func() { done <- s.Drain(t.Context(), s.Remove) }()
	if err := <-done; err != nil {
		t.Errorf("drain = %v", err)
	}
	if err := s.Drain(t.Context(), func(int) { t.Error("there is a connection left") }); err != nil {
		t.Errorf("drain = %v", err)
	}
}
