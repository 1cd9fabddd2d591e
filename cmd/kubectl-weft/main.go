// Command kubectl-weft is what people look at a mesh with: kubectl weft. It holds flags and wiring; what a mesh is
// read, judged and tried with is in the packages below cli. It changes nothing in a cluster except in the
// commands that say so.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Libraries log what becomes an error here.
	klog.SetLogger(logr.Discard())
	a := &app{
		in: os.Stdin, out: os.Stdout, errOut: os.Stderr, now: time.Now,
		terminal: isTerminal(os.Stdout), noColor: os.Getenv("NO_COLOR") != "",
	}
	a.connect = a.connectCluster
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run executes one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return exitInterrupted
	}
	f := explain(err)
	// An answer that is negative has been printed already.
	if text := f.line(); text != "" {
		fmt.Fprintln(a.errOut, "error: "+text)
	}
	return f.code
}
