// Command demo tells the story of a canary on a real Kubernetes: it applies the files of examples/demo to
// a cluster where Weft is installed, shifts the weights of their routes as a user would, sends requests
// from a client's pod at each step, and shows what the backends count beside what the routes declare.
//
//	demo [-kubectl COMMAND] [-registry PREFIX]    tell the story
//	demo push -registry PREFIX ARCHIVE...         push image archives
//
// It is run in the checkout and exits with 1 when a split is off or a request fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// The kubectl of the local cluster, relative to the checkout.
const (
	localKubectl    = "build/cluster/kubectl"
	localKubeconfig = "build/cluster/kubeconfig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "push" {
		return runPush(ctx, args[1:], stdout, stderr)
	}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	command := flags.String("kubectl", localKubectl+" --kubeconfig "+localKubeconfig, "kubectl and the arguments that lead to the cluster")
	registry := flags.String("registry", "", "prefix of image names to push to, for a cluster other than the local one")
	requests := flags.Int("requests", 16_000, "how many requests each step sends")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	info, err := stdout.Stat()
	d := &demo{
		kubectl: kubectl{command: strings.Fields(*command)}, local: *registry == "",
		out: stdout, terminal: err == nil && info.Mode()&fs.ModeCharDevice != 0, requests: *requests,
	}
	image, err := deliver(ctx, *registry, stdout)
	if err != nil {
		return err
	}
	return d.run(ctx, filepath.Join("examples", "demo"), image)
}

func runPush(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("push", flag.ContinueOnError)
	flags.SetOutput(stderr)
	registry := flags.String("registry", "", "prefix of the images' names there")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *registry == "" || flags.NArg() == 0 {
		return errors.New("push: -registry and at least one archive are needed")
	}
	for _, archive := range flags.Args() {
		if err := pushArchive(ctx, *registry, archive, stdout); err != nil {
			return err
		}
	}
	return nil
}
