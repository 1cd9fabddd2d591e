// Command app is what runs in the pods of the end-to-end tests. `app serve` is a backend for every
// protocol of the mesh, if asked to also for other proxies, and, as a client, does what it is commanded to (see package traffic); `app once`
// sends one request as its first instruction and leaves the answer as its termination message; `app forge`
// sends requests with an address that belongs to another pod.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"weft.dev/weft/test/e2e/traffic"
)

// terminationLog is where Kubernetes looks for a container's last words.
const terminationLog = "/dev/termination-log"

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
	if len(args) == 0 {
		return errors.New("usage: app serve | once URL | forge ADDRESS URL")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	protocol := flags.String("protocol", string(traffic.HTTP1), "protocol to send with")
	hop := flags.String("hop", "", "folder with tls.crt and tls.key, to serve TCP of the hop with as well")
	webhook := flags.String("webhook", "", "folder with tls.crt and tls.key, to serve admission reviews with as well")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case args[0] == "serve":
		return serve(ctx, *hop, *webhook)
	case args[0] == "once" && flags.NArg() == 1:
		client := traffic.NewClient()
		defer client.Close()
		return leave(client.Do(ctx, &traffic.Request{Protocol: traffic.Protocol(*protocol), URL: flags.Arg(0), Timeout: onceTimeout}))
	case args[0] == "forge" && flags.NArg() == 2:
		return forge(ctx, flags.Arg(0), flags.Arg(1))
	}
	return fmt.Errorf("unexpected arguments %q", args)
}

// leave writes an answer where the tests find it.
func leave(a any) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := os.WriteFile(terminationLog, data, 0o600); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// self is what this backend says of itself.
func self(conn net.Addr, peer string) traffic.Echo {
	if host, _, err := net.SplitHostPort(peer); err == nil {
		peer = host
	}
	e := traffic.Echo{
		Pod: os.Getenv("POD_NAME"), Namespace: os.Getenv("POD_NAMESPACE"), Node: os.Getenv("NODE_NAME"),
		Version: os.Getenv("VERSION"), Peer: peer,
	}
	if conn != nil {
		e.Local = conn.String()
	}
	return e
}

func listen(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
