package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft.dev/weft/proxy/upstream"
)

// The causes with which the context of a request or a try ends.
var (
	errDeadline       = errors.New("deadline exceeded")
	errBackendTimeout = fmt.Errorf("backend request timeout: %w", upstream.ErrTooSlow)
	errAnswered       = errors.New("answered")
)

// limit ends a context. Its zero value does nothing.
type limit struct {
	end   context.CancelCauseFunc
	timer *time.Timer
}

// withLimit returns a context that ends at deadline because of cause; zero means never. Unlike with a
// context's own deadline, the limit can be lifted again.
func withLimit(ctx context.Context, deadline time.Time, cause error) (context.Context, limit) {
	ctx, end := context.WithCancelCause(ctx)
	l := limit{end: end}
	if !deadline.IsZero() {
		l.timer = time.AfterFunc(time.Until(deadline), func() { end(cause) })
	}
	return ctx, l
}

// lift makes the context go on beyond its deadline.
func (l limit) lift() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l limit) cancel() {
	l.lift()
	if l.end != nil {
		l.end(errAnswered)
	}
}
