package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/bench/propagation/probe"
)

const (
	// editTimeout is how long an edit is waited for before it counts as one without effect. An operator
	// that has lost its leader is back well before.
	editTimeout = time.Minute
	// minPause and maxPause bound the time between what one edit leads to and the next edit.
	minPause = 50 * time.Millisecond
	maxPause = 150 * time.Millisecond
)

// errForeignClock: what the probe says was not when it can have been.
var errForeignClock = errors.New("the probe reads another clock: the cluster does not run on this machine")

// backends are those that edits take in turns.
var backends = [2]string{"v1", "v2"}

func backendOf(edit int) string { return backends[edit%len(backends)] }

// sight is the route as the watch sees it.
type sight struct {
	at int64
	// edit is the number of the edit that it contains.
	edit int
	// programmed tells that all proxies have this very edit.
	programmed bool
}

// observer follows one edit after the other in what the watch and the probe report.
type observer struct {
	sights       <-chan sight
	observations <-chan probe.Observation
	// ended brings the reason why one of the two reports no more.
	ended <-chan error

	wrong int
	last  probe.Observation
}

// measure edits the route and returns what came of it.
func (s *stage) measure(ctx context.Context, edits int) (*measurement, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	sights, err := s.watch(ctx, ended)
	if err != nil {
		return nil, err
	}
	observations, err := s.follow(ctx, ended)
	if err != nil {
		return nil, err
	}
	o := &observer{sights: sights, observations: observations, ended: ended}
	if err := o.begin(ctx); err != nil {
		return nil, err
	}
	var begin probe.Observation
	m := &measurement{}
	for n := 1; n <= warmUp+edits; n++ {
		if err := rest(ctx); err != nil {
			return nil, err
		}
		if n == warmUp+1 {
			begin, o.wrong = o.last, 0
		}
		start := probe.Now()
		if err := s.edit(ctx, n); err != nil {
			return nil, err
		}
		e, err := o.await(ctx, n, start)
		if err != nil {
			return nil, err
		}
		if n > warmUp {
			m.edits = append(m.edits, e)
		}
	}
	m.requests, m.failed = o.last.Requests-begin.Requests, o.last.Failures-begin.Failures
	m.elapsed, m.wrong = time.Duration(o.last.Ended-begin.Ended), o.wrong
	return m, nil
}

// rest pauses for a random time, so that no edit keeps step with anything.
func rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(minPause + rand.N(maxPause-minPause)):
		return nil
	}
}

// begin waits until every connection goes through the mesh.
func (o *observer) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	treated := map[int]bool{}
	for len(treated) < connections {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d connections go through the mesh: %w", len(treated), connections, context.Cause(ctx))
		case err := <-o.ended:
			return err
		case <-o.sights:
		case a := <-o.observations:
			o.last = a
			if a.Edit != "" {
				treated[a.Connection] = true
			}
		}
	}
	return nil
}

// await waits for all that an edit leads to, or editTimeout.
func (o *observer) await(ctx context.Context, number int, start int64) (edit, error) {
	var e edit
	reached := map[int]bool{}
	timeout := time.NewTimer(editTimeout)
	defer timeout.Stop()
	for e.everywhere == 0 || e.watch == 0 || e.programmed == 0 {
		select {
		case <-ctx.Done():
			return e, context.Cause(ctx)
		case err := <-o.ended:
			return e, err
		case <-timeout.C:
			return e, nil
		case sight := <-o.sights:
			if sight.edit != number {
				continue
			}
			if e.watch == 0 {
				e.watch = time.Duration(sight.at - start)
			}
			if sight.programmed && e.programmed == 0 {
				e.programmed = time.Duration(sight.at - start)
			}
		case a := <-o.observations:
			o.note(a)
			if a.Edit != strconv.Itoa(number) || a.Failure != "" {
				continue
			}
			if a.Ended < start || a.Ended > probe.Now() {
				return e, errForeignClock
			}
			if at := time.Duration(a.Ended - start); e.effect == 0 || at < e.effect {
				e.effect, e.gap = at, time.Duration(a.Gap)
			}
			if reached[a.Connection] = true; len(reached) == connections && e.everywhere == 0 {
				e.everywhere = time.Duration(a.Ended - start)
			}
		}
	}
	return e, nil
}

// note keeps the totals and counts an answer by a backend that its edit does not name.
func (o *observer) note(a probe.Observation) {
	o.last = a
	if number, err := strconv.Atoi(a.Edit); err == nil && a.Failure == "" && a.Backend != backendOf(number) {
		o.wrong++
	}
}

// edit writes a route whose answers carry the edit's number and come from the other backend.
func (s *stage) edit(ctx context.Context, number int) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"rules": rules(number)}})
	if err != nil {
		return fmt.Errorf("edit %d: %w", number, err)
	}
	route := &gwv1.HTTPRoute{ObjectMeta: objectMeta(routeName)}
	if err := s.client.Patch(ctx, route, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("edit %d: %w", number, err)
	}
	return nil
}

// watch opens the bare watch on the route. Its goroutine ends with ctx or the watch.
func (s *stage) watch(ctx context.Context, ended chan<- error) (<-chan sight, error) {
	w, err := s.client.Watch(ctx, &gwv1.HTTPRouteList{}, client.InNamespace(namespace), client.MatchingFields{metav1.ObjectNameField: routeName})
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	sights := make(chan sight, 1024)
	go func() {
		defer w.Stop()
		for event := range w.ResultChan() {
			at := probe.Now()
			route, ok := event.Object.(*gwv1.HTTPRoute)
			if !ok || event.Type == watch.Deleted {
				break
			}
			sights <- sight{at: at, edit: editOf(route), programmed: programmed(route)}
		}
		ended <- errors.New("the watch ended")
	}()
	return sights, nil
}

// follow reads the probe's lines. Its goroutine ends with ctx or the probe.
func (s *stage) follow(ctx context.Context, ended chan<- error) (<-chan probe.Observation, error) {
	lines, err := s.clientset.CoreV1().Pods(namespace).GetLogs(probeName, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("output of the probe: %w", err)
	}
	observations := make(chan probe.Observation, 1024)
	go func() {
		defer func() { _ = lines.Close() }()
		ended <- fmt.Errorf("output of the probe: %w", read(lines, observations))
	}()
	return observations, nil
}

// read decodes lines until they end, which is an error.
func read(lines io.Reader, observations chan<- probe.Observation) error {
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		var o probe.Observation
		if err := json.Unmarshal(scanner.Bytes(), &o); err != nil {
			return fmt.Errorf("%q: %w", scanner.Text(), err)
		}
		observations <- o
	}
	if err := scanner.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// editOf returns the number of the edit that a route contains, or -1.
func editOf(route *gwv1.HTTPRoute) int {
	for _, rule := range route.Spec.Rules {
		for _, filter := range rule.Filters {
			if filter.ResponseHeaderModifier == nil {
				continue
			}
			for _, header := range filter.ResponseHeaderModifier.Set {
				if number, err := strconv.Atoi(header.Value); err == nil && header.Name == probe.EditHeader {
					return number
				}
			}
		}
	}
	return -1
}

// programmed tells that a route's present generation is in all proxies.
func programmed(route *gwv1.HTTPRoute) bool {
	for _, parent := range route.Status.Parents {
		if parent.ControllerName != meshv1alpha1.ControllerName {
			continue
		}
		c := meta.FindStatusCondition(parent.Conditions, "Programmed")
		return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == route.Generation
	}
	return false
}
