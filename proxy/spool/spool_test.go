package spool

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatFindsNoRoomIsDropped(t *testing.T) {
	s := New(10)
	for i, want := range []bool{true, true, false, true} {
		record := []byte("abcd")
		if i == 3 {
			record = []byte("z")
		}
		if got := s.Add(record); got != want {
			t.Errorf("record %d was kept: %v, want %v", i, got, want)
		}
	}
	waiting, records := s.Take()
	if string(waiting) != "abcdabcdz" || records != 3 || s.Dropped() != 1 {
		t.Errorf("kept %q of %d records, dropped %d", waiting, records, s.Dropped())
	}
	if waiting, records = s.Take(); waiting != nil || records != 0 {
		t.Errorf("what was taken is there again: %q of %d records", waiting, records)
	}
	if !s.Add([]byte("again")) {
		t.Error("there is no room although everything was taken")
	}
}

func TestNextWaitsForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(100)
		begin := time.Now()
		time.AfterFunc(time.Minute, func() { s.Add([]byte("a")) })
		time.AfterFunc(time.Minute+time.Second, func() { s.Add([]byte("b")) })
		if got, n := s.Next(t.Context(), 2*time.Second); string(got) != "ab" || n != 2 || time.Since(begin) != time.Minute+2*time.Second {
			t.Errorf("got %q of %d records after %s", got, n, time.Since(begin))
		}
		begin = time.Now()
		s.Add(bytes.Repeat([]byte("c"), 51))
		if got, n := s.Next(t.Context(), time.Hour); len(got) != 51 || n != 1 || time.Since(begin) != 0 {
			t.Errorf("got %d bytes of %d records after %s, though half of the room was taken", len(got), n, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, n := s.Next(ctx, time.Hour); got != nil || n != 0 {
			t.Errorf("got %q of %d records of nothing", got, n)
		}
		s.Add([]byte("left"))
		if got, n := s.Next(ctx, time.Hour); got != nil || n != 0 {
			t.Errorf("got %q of %d records after the end", got, n)
		}
		if got, n := s.Take(); string(got) != "left" || n != 1 {
			t.Errorf("left is %q of %d records", got, n)
		}
	})
}
