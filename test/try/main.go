// Command try tells the story of a canary on this machine, without root and without a cluster: it
// compiles the files of examples/canary, runs the proxy that they configure and two built-in backends in
// this process, and sends real requests over loopback while the weights change. What the backends count
// is shown beside what the routes declare.
//
// It exits with 1 when a split is off or a request fails.
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
	"syscall"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/test/demo/split"
	"weft.dev/weft/test/feature/harness"
)

const namespace = "canary"

func main() {
	dir := flag.String("examples", "examples/canary", "directory of the objects")
	requests := flag.Int("requests", 16_000, "how many requests each step sends")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	info, err := os.Stdout.Stat()
	t := try{out: os.Stdout, terminal: err == nil && info.Mode()&fs.ModeCharDevice != 0, requests: *requests}
	err = t.run(ctx, os.DirFS(*dir))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "try:", err)
		os.Exit(1)
	}
}

// try is one run.
type try struct {
	out      io.Writer
	terminal bool
	requests int
	// random is where the proxy's choices come from; nil means that they are random.
	random func() uint64
	mesh   *harness.Mesh
}

// step is one chapter of the story.
type step struct {
	// title says what changes.
	title string
	// kind of the route that splits, and its weights.
	kind          string
	first, second int32
	// file, if set, is added to the objects.
	file string
	send func(context.Context, *harness.Mesh) (sender, error)
}

var steps = []step{
	{title: "a route sends one request of ten to the new version", kind: "HTTPRoute", first: 90, second: 10, file: "httproute.yaml", send: httpSender},
	{title: "half of them", kind: "HTTPRoute", first: 50, second: 50, send: httpSender},
	{title: "all of them: the old version can go", kind: "HTTPRoute", first: 0, second: 100, send: httpSender},
	{title: "the same for gRPC, with all calls on one connection", kind: "GRPCRoute", first: 90, second: 10, file: "grpcroute.yaml", send: grpcSender},
}

func (t *try) run(ctx context.Context, files fs.FS) (err error) {
	t.mesh, err = harness.Start(harness.Options{Random: t.random})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.mesh.Close()) }()
	objects, err := harness.DecodeFiles(files, "app.yaml", "standalone/*.yaml")
	if err != nil {
		return err
	}
	fmt.Fprintln(t.out, "A Service \"web\" with two versions, v1 and v2, in a namespace of the mesh.")
	summaries := make([]string, 0, len(steps))
	for i := range steps {
		s := &steps[i]
		if s.file != "" {
			if err := add(files, s.file, &objects); err != nil {
				return err
			}
		}
		setWeights(&objects, s)
		counts, err := t.step(ctx, s, objects)
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.kind, s.declared(), err)
		}
		summaries = append(summaries, "try: ok "+split.Summary(s.declared(), counts))
	}
	fmt.Fprintln(t.out)
	for _, summary := range summaries {
		fmt.Fprintln(t.out, summary)
	}
	return nil
}

func (s *step) declared() split.Shares { return split.Declared(s.first, s.second) }

// add reads one more file, as `kubectl apply` would.
func add(files fs.FS, name string, objects *compile.Snapshot) error {
	file, err := fs.ReadFile(files, name)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := harness.DecodeAll(file, objects); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// setWeights changes the weights of a copy of the step's route, as `kubectl patch` would.
func setWeights(objects *compile.Snapshot, s *step) {
	weights := []int32{s.first, s.second}
	switch s.kind {
	case "HTTPRoute":
		route := objects.HTTPRoutes[0].DeepCopy()
		for i := range route.Spec.Rules[0].BackendRefs {
			route.Spec.Rules[0].BackendRefs[i].Weight = &weights[i]
		}
		objects.HTTPRoutes = []*gwv1.HTTPRoute{route}
	case "GRPCRoute":
		route := objects.GRPCRoutes[0].DeepCopy()
		for i := range route.Spec.Rules[0].BackendRefs {
			route.Spec.Rules[0].BackendRefs[i].Weight = &weights[i]
		}
		objects.GRPCRoutes = []*gwv1.GRPCRoute{route}
	}
}

// step applies objects, sends requests and shows what becomes of them.
func (t *try) step(ctx context.Context, s *step, objects compile.Snapshot) (split.Counts, error) {
	begin := time.Now()
	applied, err := t.mesh.Apply(ctx, objects)
	if err != nil {
		return split.Counts{}, err
	}
	if len(applied.Rejected) > 0 {
		return split.Counts{}, fmt.Errorf("the proxy rejects %s: %s", applied.Rejected[0].Ref, applied.Rejected[0].Reason)
	}
	fmt.Fprintf(t.out, "\n%s %s: %s (in force after %s)\n",
		s.kind, s.declared(), s.title, time.Since(begin).Round(time.Millisecond))
	send, err := s.send(ctx, t.mesh)
	if err != nil {
		return split.Counts{}, err
	}
	v1, v2 := t.mesh.Pod(namespace+"/web-v1"), t.mesh.Pod(namespace+"/web-v2")
	if v1 == nil || v2 == nil {
		return split.Counts{}, errors.New("pods web-v1 and web-v2 do not exist")
	}
	before1, before2 := v1.Requests(), v2.Requests()
	l := startLoad(ctx, send, t.requests)
	meter := &split.Meter{Out: t.out, Terminal: t.terminal, Name: s.kind, Declared: s.declared(), Total: t.requests}
	counts := func() split.Counts {
		return split.Counts{
			First: v1.Requests() - before1, Second: v2.Requests() - before2,
			Requests: int(l.sent.Load()), Failed: int(l.failed.Load()),
		}
	}
	watch(l.done, func() { meter.Show(counts(), time.Now()) })
	final := counts()
	meter.End(final)
	if err := ctx.Err(); err != nil {
		return final, err
	}
	return final, errors.Join(split.Judge(s.declared(), final), l.firstError())
}

// watch calls show ten times a second until done is closed.
func watch(done <-chan struct{}, show func()) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			show()
		case <-done:
			return
		}
	}
}
