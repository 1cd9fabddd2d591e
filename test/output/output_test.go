package output

import (
	"fmt"
	"io"
	"testing"
)

// TestWriterThatOutlivesItsTest writes through the end of a test. The race detector and the testing package would tell.
func TestWriterThatOutlivesItsTest(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	written := make(chan struct{}, 1)
	t.Run("test", func(t *testing.T) {
		// The end of a test that has tests of its own is not synchronized with its output.
		t.Run("part", func(*testing.T) {})
		w := Of(t)
		go func() {
			defer close(done)
			for {
				if n, err := fmt.Fprintln(w, "late"); n != len("late\n") || err != nil {
					panic(err)
				}
				select {
				case written <- struct{}{}:
				default:
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		<-written
	})
	<-written
	<-written
	close(stop)
	<-done
}

// TestOutputOfATest goes to the test.
func TestOutputOfATest(t *testing.T) {
	into := &recorded{TB: t}
	if _, err := io.WriteString(Of(into), "said\n"); err != nil || string(into.said) != "said\n" {
		t.Errorf("said %q, %v", into.said, err)
	}
}

type recorded struct {
	testing.TB
	said []byte
}

func (r *recorded) Output() io.Writer { return r }

func (r *recorded) Write(p []byte) (int, error) {
	r.said = append(r.said, p...)
	return len(p), nil
}
