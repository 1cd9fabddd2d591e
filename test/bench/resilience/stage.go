package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/test/feature/harness"
)

// The load goes to the Service web, from a client in its namespace.
const (
	namespace  = "shop"
	serviceURL = "http://web/"
)

// applyTimeout bounds how long proxies may take to acknowledge.
const applyTimeout = 30 * time.Second

// stage is a mesh with a Service whose pods are instances, and a clock that starts with it.
type stage struct {
	mesh      *harness.Mesh
	objects   compile.Snapshot
	instances []*instance
	start     time.Time
	stop      context.CancelFunc

	mu       sync.Mutex
	arrivals []arrival
}

// newStage starts n instances behind a Service, with further objects beside it.
func newStage(ctx context.Context, n int, c capability, random *rand.Rand, objects string) (s *stage, err error) {
	mesh, err := startMesh(random)
	if err != nil {
		return nil, err
	}
	instances, stop := context.WithCancel(ctx)
	s = &stage{mesh: mesh, start: time.Now(), stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := harness.DecodeAll([]byte(service(n)), &s.objects); err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	if err := s.apply(ctx, objects); err != nil {
		return nil, err
	}
	for i := range n {
		at := newInstance(instances, c, child(random), func() { s.arrived(i) })
		s.instances = append(s.instances, at)
		s.mesh.Pod(namespace + "/" + podName(i)).Handle(at)
	}
	return s, nil
}

// startMesh starts a mesh whose splits come from a seed.
func startMesh(random *rand.Rand) (*harness.Mesh, error) {
	var mu sync.Mutex
	choices := child(random)
	mesh, err := harness.Start(harness.Options{
		Log: slog.New(slog.DiscardHandler),
		Random: func() uint64 {
			mu.Lock()
			defer mu.Unlock()
			return choices.Uint64()
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start a mesh: %w", err)
	}
	return mesh, nil
}

// child returns a source of its own for one part, so that no part's numbers depend on how many another took.
func child(random *rand.Rand) *rand.Rand {
	return rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
}

func podName(i int) string { return fmt.Sprintf("web-%d", i) }

// service returns a namespace of the mesh with a Service and its pods.
func service(pods int) string {
	var endpoints strings.Builder
	for i := range pods {
		fmt.Fprintf(&endpoints, "- {addresses: [10.244.0.%d], targetRef: {kind: Pod, name: %s}}\n", i+1, podName(i))
	}
	return `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
` + endpoints.String()
}

// apply puts objects in force, in place of those of the same kind and name.
func (s *stage) apply(ctx context.Context, objects string) error {
	if err := harness.DecodeAll([]byte(objects), &s.objects); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	return apply(ctx, s.mesh, s.objects)
}

// apply puts objects in force in a mesh. An object that the mesh does not take is an error: what it asks for
// would not be measured.
func apply(ctx context.Context, mesh *harness.Mesh, objects compile.Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	applied, err := mesh.Apply(ctx, objects)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for i := range applied.Compiled.Policies {
		if p := &applied.Compiled.Policies[i]; p.Accepted.Status != metav1.ConditionTrue {
			err = errors.Join(err, fmt.Errorf("MeshPolicy %s is not accepted: %s", p.Name, p.Accepted.Message))
		}
	}
	for _, r := range applied.Rejected {
		err = errors.Join(err, fmt.Errorf("the proxy rejects %s: %s", r.Ref, r.Reason))
	}
	return err
}

// elapsed is the time of the stage's clock.
func (s *stage) elapsed() time.Duration { return time.Since(s.start) }

func (s *stage) arrived(instance int) {
	at := s.elapsed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = append(s.arrivals, arrival{at, instance})
}

// seen returns the requests that have reached instances so far.
func (s *stage) seen() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arrivals[:len(s.arrivals):len(s.arrivals)]
}

// client returns a client of the Service's namespace.
func (s *stage) client() *http.Client { return s.mesh.HTTP(namespace) }

// close ends the mesh and its instances.
func (s *stage) close() error {
	s.stop()
	for _, i := range s.instances {
		i.working.Wait()
	}
	if err := s.mesh.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}
