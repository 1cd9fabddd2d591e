// Command resilience measures what the mesh makes of instances that are slow, of retries that add to an
// overload, of overload itself, and how exactly it splits. A whole mesh runs in this process, as a user would
// configure it: objects in YAML are compiled, published and served by a real proxy on loopback, and what is
// measured is real time. Its own work is small, but on a machine that is busy with other things times mean
// little; how late requests were sent tells. It reports and judges no more than whether a goal was met in
// this run; it fails when it could not measure.
//
//	go run ./test/bench/resilience -out build/bench/resilience.json
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weft.dev/weft/test/bench/figures"
)

// plan is how long and how much is measured.
type plan struct {
	slow slowPlan
	// sweep is for each load among which the capacity is sought, storm and overload for those beyond it.
	sweep, storm, overload offerPlan
	split                  splitPlan
}

var (
	fullPlan = plan{
		slow:     slowPlan{warmUp: 2 * time.Second, slow: 6 * time.Second, recovery: recoveryLimit},
		sweep:    offerPlan{warmUp: 500 * time.Millisecond, judged: 2500 * time.Millisecond},
		storm:    offerPlan{warmUp: 2 * time.Second, judged: 5 * time.Second},
		overload: offerPlan{warmUp: 3 * time.Second, judged: 5 * time.Second},
		split:    splitPlan{requests: 100_000, limit: 110 * time.Second},
	}
	shortPlan = plan{
		slow:     slowPlan{warmUp: time.Second, slow: 2 * time.Second, recovery: 3 * time.Second},
		sweep:    offerPlan{warmUp: 500 * time.Millisecond, judged: 1500 * time.Millisecond},
		storm:    offerPlan{warmUp: 500 * time.Millisecond, judged: 2 * time.Second},
		overload: offerPlan{warmUp: 2 * time.Second, judged: 1500 * time.Millisecond},
		split:    splitPlan{requests: 10_000, limit: 8 * time.Second},
	}
)

// scenario is one part of the bench.
type scenario struct {
	name    string
	measure func(context.Context, *rand.Rand, plan) ([]figures.Figure, error)
}

var scenarios = []scenario{
	{"slow", slow},
	{"storm", storm},
	{"overload", overload},
	{"splits", splits},
}

func main() {
	seed := flag.Uint64("seed", 1, "seed of arrivals, service times and splits")
	short := flag.Bool("short", false, "measure for a shorter time, under a minute altogether")
	only := flag.String("only", "", "measure one scenario alone: slow, storm, overload or splits")
	out := flag.String("out", filepath.Join("build", "bench", "resilience.json"), "file that receives the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	p := fullPlan
	if *short {
		p = shortPlan
	}
	err := run(ctx, *seed, p, *only, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "resilience:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, seed uint64, p plan, only, out string) error {
	fmt.Println("seed", seed)
	began := time.Now()
	var all []figures.Figure
	for i, s := range scenarios {
		if only != "" && only != s.name {
			continue
		}
		fmt.Printf("%3.0fs %s\n", time.Since(began).Seconds(), s.name)
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		measured, err := s.measure(ctx, random, p)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for _, f := range measured {
			f.Name = s.name + ": " + f.Name
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("there is no scenario %q", only)
	}
	fmt.Printf("%3.0fs done\n\n%s\n", time.Since(began).Seconds(), figures.Table(all))
	fmt.Print(busy(all))
	fmt.Println(verdict(all))
	if err := figures.Write(out, all); err != nil {
		return err
	}
	fmt.Println("written to", out)
	return nil
}

// busy says, in a line each, of which scenarios the requests were sent so late that their times mean little.
func busy(all []figures.Figure) string {
	var b strings.Builder
	for _, f := range all {
		if s, ok := strings.CutSuffix(f.Name, ": "+lateFigure); ok && *f.Value > milliseconds(lateLimit) {
			fmt.Fprintf(&b, "%s: the machine was busy with other things, and times mean little: requests were sent %.0f ms late\n", s, *f.Value)
		}
	}
	return b.String()
}

// verdict sums up the goals, and names those that were not met.
func verdict(all []figures.Figure) string {
	goals, missed := 0, []string{}
	for _, f := range all {
		if f.Met == nil {
			continue
		}
		goals++
		if !*f.Met {
			missed = append(missed, f.String())
		}
	}
	if len(missed) == 0 {
		return fmt.Sprintf("all of %d goals were met", goals)
	}
	return fmt.Sprintf("%d of %d goals were not met:\n  %s", len(missed), goals, strings.Join(missed, "\n  "))
}
