// Command placement measures what proxies cost that are shared by their namespaces, and what those cost that are beside
// pods: CPU time and latency of each request, and memory. Two namespaces have as many pods each; every pod is a client
// and a server of the Service of its namespace. Pods are network namespaces that end with this process. Their proxies are
// processes of weft-proxy, whose configuration comes from the operator's own server and whose connections are captured
// by the node agent's own rules. All proxies are on one core, load, applications and operator on another.
//
//	go run ./test/bench/placement -pods 1,10,50 -proxy bin/weft-proxy -out build/bench/placement.json
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft.dev/weft/test/bench/cost"
	"weft.dev/weft/test/bench/figures"
)

// plan is what is measured, and how long.
type plan struct {
	program string
	pods    []int
	rounds  int
	rate    int
	each    time.Duration
}

func main() {
	var (
		p       plan
		out     = flag.String("out", "build/bench/placement.json", "where the figures go")
		pods    = flag.String("pods", "1,10,50", "how many pods each of the two namespaces has, one measurement after the other")
		seconds = flag.Float64("seconds", 2, "how long each measurement takes")
	)
	flag.StringVar(&p.program, "proxy", "bin/weft-proxy", "the proxy")
	flag.IntVar(&p.rounds, "rounds", 3, "how often each is measured")
	flag.IntVar(&p.rate, "rate", 1000, "requests per second")
	flag.Parse()
	p.each = time.Duration(*seconds * float64(time.Second))
	err := func() error {
		for count := range strings.SplitSeq(*pods, ",") {
			n, err := strconv.Atoi(count)
			if err != nil || n < 1 || n > maxPods {
				return fmt.Errorf("%q is no number of pods from 1 to %d", count, maxPods)
			}
			p.pods = append(p.pods, n)
		}
		return bench(*out, p)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "placement:", err)
		os.Exit(1)
	}
}

func bench(out string, p plan) error {
	if err := cost.Pin(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var all results
	for _, pods := range p.pods {
		for _, sidecars := range []bool{false, true} {
			r, err := measure(ctx, p, pods, sidecars)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name(), err)
			}
			all = append(all, r)
			fmt.Fprintln(os.Stderr, r.name()+": measured")
		}
	}
	fmt.Println(all.table())
	goals := all.goals()
	fmt.Println(figures.Table(goals))
	return figures.Write(out, append(all.figures(), goals...))
}
