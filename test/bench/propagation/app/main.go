// Command app runs in the pods of the propagation benchmark: `app serve NAME` is a backend, `app probe URL`
// the client whose output the benchmark reads (see package probe).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"weft.dev/weft/test/bench/propagation/probe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: app serve NAME | probe [-connections N] [-interval D] URL")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	connections := flags.Int("connections", 1, "kept connections that take turns")
	interval := flags.Duration("interval", time.Millisecond, "time between two requests")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case args[0] == "serve" && flags.NArg() == 1:
		return probe.Serve(ctx, ":8080", flags.Arg(0))
	case args[0] == "probe" && flags.NArg() == 1:
		client := probe.Client{URL: flags.Arg(0), Connections: *connections, Interval: *interval}
		return client.Run(ctx, os.Stdout)
	}
	return fmt.Errorf("unexpected arguments %q", args)
}
