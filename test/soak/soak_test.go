// Package soak holds proxies under mixed load while their configuration changes all the time: no request may fail or
// reach a backend that is not meant, and nothing may grow. Short by default; `make soak-proxy` gives it time.
package soak

import (
	"flag"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/test/bench/figures"
)

var (
	duration = flag.Duration("duration", 3*time.Second, "how long each engine is under load")
	least    = flag.Int64("requests", 0, "how many requests there are at least, however long that takes")
	only     = flag.String("engine", "", "the engine that is tested; empty for all")
	file     = flag.String("figures", "", "file that receives what was measured; the test logs it in any case")
)

// patience is how long a request may take. It is only used up by a failure.
const patience = time.Minute

func TestSoak(t *testing.T) {
	var measured []figures.Figure
	for _, of := range []engine.HTTPEngine{engine.HTTPStd, engine.HTTPWeft} {
		if *only == "" || *only == string(of) {
			t.Run(string(of), func(t *testing.T) { measured = append(measured, soak(t, of)...) })
		}
	}
	t.Log("\n" + figures.Table(measured))
	if *file != "" {
		if err := figures.Write(*file, measured); err != nil {
			t.Error(err)
		}
	}
}

func soak(t *testing.T, of engine.HTTPEngine) []figures.Figure {
	p := newPlane(t, of)
	l := newLoad(p)
	// What is made once has been made after a while; from then on nothing grows.
	l.run(t, *duration/4, 0)
	before := measure(t)
	l.run(t, *duration, *least)
	after := measure(t)
	named := func(what string) string { return string(of) + ": " + what }
	// Connections to backends that wait for a request may be as many as have been needed at once, with a goroutine at each
	// end.
	slack := float64(2 * len(clients()))
	measured := []figures.Figure{
		figures.New(named("sent"), float64(l.sent.Load()), "requests").AtLeast(float64(max(*least, 1))),
		figures.New(named("failed"), float64(l.failed.Load()), "requests").AtMost(0),
		figures.New(named("changes of the configuration"), float64(p.seq), ""),
		figures.New(named("goroutines after a fifth"), float64(before.goroutines), ""),
		figures.New(named("goroutines more at the end"), float64(after.goroutines-before.goroutines), "").AtMost(2 * slack),
		figures.New(named("descriptors after a fifth"), float64(before.descriptors), ""),
		figures.New(named("descriptors more at the end"), float64(after.descriptors-before.descriptors), "").AtMost(slack),
		figures.New(named("memory after a fifth"), before.heap, "MiB"),
		figures.New(named("memory more at the end"), after.heap-before.heap, "MiB").AtMost(math.Ceil(before.heap/4 + 8)),
	}
	for _, kind := range kinds {
		measured = append(measured, figures.New(named(kind.name), float64(l.counts[kind.name].Load()), "requests").AtLeast(1))
	}
	for _, f := range measured {
		if f.Met != nil && !*f.Met {
			t.Error(f)
		}
	}
	return measured
}

// load counts the requests of each kind.
type load struct {
	plane        *plane
	sent, failed atomic.Int64
	counts       map[string]*atomic.Int64
}

func newLoad(p *plane) *load {
	l := &load{plane: p, counts: map[string]*atomic.Int64{}}
	for _, kind := range kinds {
		l.counts[kind.name] = new(atomic.Int64)
	}
	return l
}

// run has clients send requests, each one after the other, one of each kind at least, until the time is over and there
// were enough. It ends soon after one has failed.
func (l *load) run(t *testing.T, d time.Duration, least int64) {
	t.Helper()
	stop := make(chan struct{})
	var others, senders sync.WaitGroup
	others.Go(func() { l.plane.churn(t, stop) })
	end := time.Now().Add(d)
	for i, connect := range clients() {
		senders.Go(func() {
			c := connect(l.plane)
			defer func() { c.close() }()
			// Whoever begins elsewhere is at another kind of request at the same time.
			for n := i; l.failed.Load() == 0 && (n-i < len(c.kinds) || time.Now().Before(end) || l.sent.Load() < least); n++ {
				kind := c.kinds[n%len(c.kinds)]
				if err := kind.send(c); err != nil {
					l.failed.Add(1)
					t.Errorf("request %d of client %d, %s: %v", n-i, i, kind.name, err)
				}
				l.counts[kind.name].Add(1)
				l.sent.Add(1)
				if n%reconnectAfter == reconnectAfter-1 {
					c.close()
					c = connect(l.plane)
				}
			}
		})
	}
	senders.Wait()
	close(stop)
	others.Wait()
}

// size is what must not grow.
type size struct {
	goroutines, descriptors int
	heap                    float64 // MiB
}

// measure waits until what has ended is gone.
func measure(t *testing.T) size {
	t.Helper()
	var s size
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for range 40 { // the least of two seconds: what has ended may still be going
		<-ticker.C
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := size{runtime.NumGoroutine(), len(files), float64(m.HeapAlloc) / (1 << 20)}
		if s == (size{}) {
			s = now
		}
		s = size{min(s.goroutines, now.goroutines), min(s.descriptors, now.descriptors), min(s.heap, now.heap)}
	}
	return s
}
