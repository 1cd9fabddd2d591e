package source

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// notifyingHandler signals each record.
type notifyingHandler struct{ records chan<- struct{} }

func (notifyingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h notifyingHandler) Handle(context.Context, slog.Record) error {
	h.records <- struct{}{}
	return nil
}

func (h notifyingHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h notifyingHandler) WithGroup(string) slog.Handler      { return h }

func notifyingLog(records chan<- struct{}) *slog.Logger { return slog.New(notifyingHandler{records}) }

// rename moves a file into a directory that appears with it.
func rename(t *testing.T, file, dir string) {
	t.Helper()
	staging := filepath.Join(t.TempDir(), "staging")
	if err := os.Mkdir(staging, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, filepath.Join(staging, filepath.Base(file))); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(staging, dir); err != nil {
		t.Fatal(err)
	}
}
