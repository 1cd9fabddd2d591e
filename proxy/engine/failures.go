package engine

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"weft.dev/weft/proxy/reason"
)

// failureLogInterval is how often the log names a reason at the level of operators.
const failureLogInterval = time.Second

// maxLogged bounds how many kinds of lines are remembered.
const maxLogged = 1024

// failureLog writes one line for each request that is refused or fails: for each reason the first of every
// second at Info, so that a failing backend does not fill the log, and the others at Debug.
type failureLog = sparseLog[reason.Reason]

// sparseLog tells at which level lines are logged that may come often: of each kind the first of every second at
// Info, and the others at Debug. There are few kinds.
type sparseLog[K comparable] struct {
	mu    sync.Mutex
	kinds map[K]loggedKind
}

type loggedKind struct {
	last time.Time
	// unseen counts the lines since then.
	unseen int
}

// level returns the level of a line at a time, and how many lines since the last one at Info had a lower
// one.
func (l *sparseLog[K]) level(kind K, now time.Time) (level slog.Level, unseen int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds == nil || len(l.kinds) > maxLogged {
		l.kinds = map[K]loggedKind{}
	}
	logged, known := l.kinds[kind]
	if known && now.Sub(logged.last) < failureLogInterval {
		logged.unseen++
		l.kinds[kind] = logged
		return slog.LevelDebug, 0
	}
	l.kinds[kind] = loggedKind{last: now}
	return slog.LevelInfo, logged.unseen
}

// logFailure logs that a request or connection was refused or failed. More are key and value in turn.
func (e *Engine) logFailure(why reason.Reason, more ...any) {
	level, unseen := e.failures.level(why, time.Now())
	fields := append([]any{"reason", string(why)}, more...)
	if unseen > 0 {
		fields = append(fields, "unseen", unseen)
	}
	e.options.Log.Log(context.Background(), level, "A request or connection failed", fields...)
}

// cut measures and logs that a response or a relayed connection ended before it was complete.
func (e *Engine) cut(why reason.Reason, more ...any) {
	e.metrics.Cut(string(why))
	e.logFailure(why, more...)
}
