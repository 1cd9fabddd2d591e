// Command propagation measures how long an edit of an HTTPRoute takes to its first effect on a real request
// through the mesh, and beside it how long a bare watch takes to see the same write: two clocks that start
// with the write. What the difference holds is the mesh's own. It reports and judges no more than whether
// a goal was met in this run; it fails when it could not measure.
//
//	go run ./test/bench/propagation -edits 300 -out build/bench/propagation.json
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"weft.dev/weft/test/bench/figures"
)

// Bounds of the parts that are not measured.
const (
	setupTimeout   = 5 * time.Minute
	cleanupTimeout = 2 * time.Minute
)

// warmUp is how many edits come before those that count: connections are opened and code is paged in.
const warmUp = 10

func main() {
	edits := flag.Int("edits", 300, "edits to measure")
	out := flag.String("out", filepath.Join("build", "bench", "propagation.json"), "file that receives the results")
	kubeconfig := flag.String("kubeconfig", cmp.Or(os.Getenv("KUBECONFIG"), filepath.Join("build", "cluster", "kubeconfig")), "cluster on which Weft runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, *kubeconfig, *edits, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "propagation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig string, edits int, out string) (err error) {
	if edits < 1 {
		return errors.New("at least one edit is needed")
	}
	s, err := newStage(kubeconfig)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, s.remove(ctx))
	}()
	setup, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	fmt.Println("setting up namespace", namespace)
	if err := s.build(setup); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	fmt.Printf("measuring %d edits\n", edits)
	m, err := s.measure(ctx, edits)
	if err != nil {
		return fmt.Errorf("measure: %w", err)
	}
	rows := m.rows()
	fmt.Print("\n", table(rows), "\n")
	results := m.results(rows)
	for _, r := range results {
		if r.Goal != "" {
			fmt.Println(r)
		}
	}
	if err := figures.Write(out, results); err != nil {
		return err
	}
	fmt.Println("written to", out)
	return nil
}
