package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"weft.dev/weft/test/demo/split"
)

// countEvery is the time between two looks at what the backends have counted.
const countEvery = 500 * time.Millisecond

// counts is what a pod of the service says at /count.
type counts struct {
	HTTP int `json:"http"`
	GRPC int `json:"grpc"`
}

// report is a line of `app send`.
type report struct {
	Sent   int      `json:"sent"`
	Failed int      `json:"failed"`
	Done   bool     `json:"done"`
	Errors []string `json:"errors"`
}

// versions are the pods of both versions.
type versions struct{ first, second []string }

// send sends the requests of a step from the client's pod and shows what becomes of them.
func (d *demo) send(ctx context.Context, s *step) (split.Counts, error) {
	pods, err := d.versions(ctx)
	if err != nil {
		return split.Counts{}, err
	}
	before, err := d.count(ctx, s, pods)
	if err != nil {
		return split.Counts{}, err
	}
	w := watcher{meter: &split.Meter{
		Out: d.out, Terminal: d.terminal, Name: s.kind, Declared: s.declared(), Total: d.requests,
	}}
	counting, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		for counting.Err() == nil {
			if now, err := d.count(counting, s, pods); err == nil {
				w.counted(now.First-before.First, now.Second-before.Second)
			}
			select {
			case <-counting.Done():
			case <-time.After(countEvery):
			}
		}
	})
	last, err := d.exec(ctx, s, w.reported)
	stop()
	ended.Wait()
	if err != nil {
		return split.Counts{}, err
	}
	after, err := d.count(ctx, s, pods)
	if err != nil {
		return split.Counts{}, err
	}
	final := split.Counts{
		First: after.First - before.First, Second: after.Second - before.Second, Requests: last.Sent, Failed: last.Failed,
	}
	w.meter.End(final)
	err = split.Judge(s.declared(), final)
	if len(last.Errors) > 0 {
		err = errors.Join(err, errors.New("the client says: "+strings.Join(last.Errors, "; ")))
	}
	return final, err
}

// exec runs the client and returns its last report.
func (d *demo) exec(ctx context.Context, s *step, progress func(report)) (report, error) {
	args := slices.Concat([]string{"-n", namespace, "exec", "deploy/client", "--", "app", "send", "-n", strconv.Itoa(d.requests)}, s.send, []string{s.target})
	var last report
	err := d.kubectl.stream(ctx, func(line []byte) error {
		last = report{}
		if err := json.Unmarshal(line, &last); err != nil {
			return fmt.Errorf("the client's report: %w", err)
		}
		progress(last)
		return nil
	}, args...)
	if err == nil && !last.Done {
		err = fmt.Errorf("the client ended after %d requests", last.Sent)
	}
	return last, err
}

// watcher joins what the client and the backends say and shows it.
type watcher struct {
	mu    sync.Mutex
	meter *split.Meter
	state split.Counts
}

func (w *watcher) reported(r report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Requests, w.state.Failed = r.Sent, r.Failed
	w.meter.Show(w.state, time.Now())
}

func (w *watcher) counted(first, second int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.First, w.state.Second = first, second
	w.meter.Show(w.state, time.Now())
}

// versions finds the pods of the service that run.
func (d *demo) versions(ctx context.Context) (versions, error) {
	var list corev1.PodList
	if err := d.kubectl.get(ctx, &list, "pods", "-l", "app=web"); err != nil {
		return versions{}, err
	}
	v := byVersion(list.Items)
	if len(v.first) == 0 || len(v.second) == 0 {
		return v, fmt.Errorf("of web %d pods of v1 run and %d of v2", len(v.first), len(v.second))
	}
	return v, nil
}

func byVersion(pods []corev1.Pod) versions {
	var v versions
	for i := range pods {
		p := &pods[i]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning:
		case p.Labels["version"] == "v1":
			v.first = append(v.first, p.Name)
		case p.Labels["version"] == "v2":
			v.second = append(v.second, p.Name)
		}
	}
	return v
}

// count sums what the pods of both versions have counted in their lives. All are asked at once, so that
// what is shown of a step that runs is of one moment, nearly.
func (d *demo) count(ctx context.Context, s *step, pods versions) (split.Counts, error) {
	names := slices.Concat(pods.first, pods.second)
	numbers, errs := make([]int, len(names)), make([]error, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() { numbers[i], errs[i] = d.countOf(ctx, s, name) })
	}
	asking.Wait()
	var sum split.Counts
	for i, n := range numbers {
		if i < len(pods.first) {
			sum.First += n
		} else {
			sum.Second += n
		}
	}
	return sum, errors.Join(errs...)
}

func (d *demo) countOf(ctx context.Context, s *step, pod string) (int, error) {
	data, err := d.kubectl.run(ctx, nil, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+":8081/proxy/count")
	if err != nil {
		return 0, err
	}
	var c counts
	if err := json.Unmarshal(data, &c); err != nil {
		return 0, fmt.Errorf("what %s has counted: %w", pod, err)
	}
	return s.count(c), nil
}
