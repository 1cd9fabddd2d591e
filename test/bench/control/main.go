// Command control measures what the control plane costs as the number of HTTPRoutes grows: how long after the write
// of a route or an EndpointSlice a proxy has it in force, beside a bare watch of the same writes; what the operator
// uses of processor and memory; what it sends to a proxy and writes to the API server; and what its restart costs.
//
// It runs a kube-apiserver and etcd, the operator as it is built, and a proxy: the client of the configuration stream
// and the engine that proxies consist of, in a process of its own that answers a request through itself after every
// change of a route, so that the effect is that of a request. There are no kubelet and no controllers beside: pods,
// Services and EndpointSlices are written directly.
//
//	make bench-control ROUTES=100,1000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"weft.dev/weft/test/bench/figures"
)

// Goals, in milliseconds, MiB and bytes.
const (
	goalMedian, goalTail = 5, 20
	goalSize             = 10000
	goalMemory           = 200 * 1e6 / (1 << 20)
	goalMemorySize       = 5000
	goalBytes            = 1024
	goalProxyMemory      = 48
)

type options struct {
	sizes                []int
	changes              int
	operator, proxy, out string
}

func main() {
	var o options
	sizes := flag.String("routes", "100,1000,5000,10000", "numbers of HTTPRoutes, growing")
	flag.IntVar(&o.changes, "changes", 200, "changes of each kind to measure at each size")
	flag.StringVar(&o.operator, "operator", filepath.Join("bin", "weft-operator"), "the operator's binary")
	flag.StringVar(&o.proxy, "proxy", filepath.Join("build", "bench-control-proxy"), "the binary of ./test/bench/control/proxy")
	flag.StringVar(&o.out, "out", filepath.Join("build", "bench", "control.json"), "file that receives the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	ctrl.SetLogger(logr.Discard())
	err := o.parse(*sizes)
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "control:", err)
		os.Exit(1)
	}
}

func (o *options) parse(sizes string) error {
	for text := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < measured {
			return fmt.Errorf("-routes: %q is not a number from %d on", text, measured)
		}
		o.sizes = append(o.sizes, n)
	}
	if !slices.IsSorted(o.sizes) || o.changes < 1 {
		return errors.New("-routes must grow, and -changes be at least 1")
	}
	return nil
}

func run(ctx context.Context, o options) (err error) {
	s, err := newStage(ctx, o.operator, o.proxy)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	var all []figures.Figure
	for _, size := range o.sizes {
		fmt.Printf("%d routes\n", size)
		found, err := s.measure(ctx, size, o.changes)
		if err != nil {
			return fmt.Errorf("%d routes: %w", size, err)
		}
		for _, f := range found {
			fmt.Println(" ", f)
		}
		all = append(all, found...)
	}
	fmt.Print("\n", figures.Table(all), "\n")
	if err := figures.Write(o.out, all); err != nil {
		return err
	}
	fmt.Println("written to", o.out)
	return nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until asks again and again until the answer is yes, for as long as patience lasts.
func until(ctx context.Context, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		yes, err := ask()
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, context.Cause(ctx)), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
