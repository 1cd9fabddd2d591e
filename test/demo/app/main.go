// Command app is the application of the demo. `app serve` is a version of a web service that says which
// version it is, over HTTP and gRPC, and counts what it is asked. `app idle` waits, so that a client's pod
// is there for `app captured`, which tells whether what that pod sends goes through the mesh, and
// `app send`, which sends requests and counts those that fail.
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
)

const usage = `usage: app VERB

  serve                                     the web service; VERSION is in the environment
  idle                                      wait until the pod is ended
  captured [-timeout D] URL                 wait until requests to URL go through the mesh
  send [-n N] [-c N] [-rate N] [-grpc] TARGET   send requests to a URL or a gRPC server "host:port"
`

var errUsage = errors.New("unknown verb or arguments")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, errUsage) {
		fmt.Fprint(os.Stderr, usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	timeout := flags.Duration("timeout", time.Minute, "how long to wait")
	requests := flags.Int("n", 10_000, "how many requests to send")
	clients := flags.Int("c", 16, "how many clients send at once")
	rate := flags.Float64("rate", 0, "how many requests to send in a second at most; 0 is as many as there can be")
	grpc := flags.Bool("grpc", false, "call a gRPC server")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case args[0] == "serve" && flags.NArg() == 0:
		return serve(ctx, os.Getenv("VERSION"), listen)
	case args[0] == "idle" && flags.NArg() == 0:
		<-ctx.Done()
		return nil
	case args[0] == "captured" && flags.NArg() == 1:
		return awaitCapture(ctx, flags.Arg(0), *timeout)
	case args[0] == "send" && flags.NArg() == 1:
		newSender := httpSender
		if *grpc {
			newSender = grpcSender
		}
		if *rate > 0 {
			newSender = paced(newSender, *rate)
		}
		return send(ctx, newSender, flags.Arg(0), *requests, *clients, os.Stdout)
	}
	return errUsage
}
