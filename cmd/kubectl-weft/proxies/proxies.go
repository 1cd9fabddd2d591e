// Package proxies asks the proxies of a mesh what they have and do. The way to them is a port-forward of the API
// server, so that the rights of Kubernetes decide who may ask. It changes nothing.
package proxies

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

// Way leads to the ports of pods.
type Way interface {
	// Get returns the body of what a pod answers on a port to a GET of a path. An answer that is not 200 is an
	// error.
	Get(ctx context.Context, pod types.NamespacedName, port int, path string) (io.ReadCloser, error)
}

// Of returns the pods that run and are proxies or have one beside them, of one namespace or, if it is empty, of all. They
// are sorted, in each namespace those that all pods share first.
func Of(pods []*corev1.Pod, namespace string) []types.NamespacedName {
	var found []types.NamespacedName
	beside := map[types.NamespacedName]bool{}
	for _, p := range pods {
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		beside[name] = compile.HasSidecar(p)
		if (p.Labels[meshv1alpha1.ComponentLabel] == compile.ComponentProxy || beside[name]) && p.Status.Phase == corev1.PodRunning &&
			(namespace == "" || p.Namespace == namespace) {
			found = append(found, name)
		}
	}
	slices.SortFunc(found, func(a, b types.NamespacedName) int {
		switch {
		case a.Namespace != b.Namespace || beside[a] == beside[b]:
			return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
		case beside[a]:
			return 1
		}
		return -1
	})
	return found
}

// State returns what a proxy has, with all resources if they are wanted.
func State(ctx context.Context, way Way, pod types.NamespacedName, resources bool) (admin.State, error) {
	var s admin.State
	path := "/state"
	if resources {
		path += "?resources=true"
	}
	return s, read(ctx, way, pod, path, &s)
}

// Recent returns the requests that a proxy has lately served.
func Recent(ctx context.Context, way Way, pod types.NamespacedName) ([]admin.Exchange, error) {
	var all []admin.Exchange
	return all, read(ctx, way, pod, "/exchanges", &all)
}

func read(ctx context.Context, way Way, pod types.NamespacedName, path string, into any) error {
	body, err := way.Get(ctx, pod, wire.PortAdmin, path)
	if err != nil {
		return fmt.Errorf("proxy %s: %w", pod, err)
	}
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("proxy %s: %w", pod, err)
	}
	return nil
}

// Follow calls begun once the proxy tells of its requests, and got for each that it has served from then on, until ctx ends
// or the proxy does. query is what admin.Handler takes.
func Follow(ctx context.Context, way Way, pod types.NamespacedName, query url.Values, begun func(), got func(admin.Line)) error {
	query.Set("follow", "true")
	body, err := way.Get(ctx, pod, wire.PortAdmin, "/exchanges?"+query.Encode())
	if err != nil {
		return fmt.Errorf("proxy %s: %w", pod, err)
	}
	defer func() { _ = body.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = body.Close() })
	defer stop()
	begun()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l admin.Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("proxy %s: %w", pod, err)
		}
		got(l)
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("proxy %s has ended the stream", pod), lines.Err())
}

// Metrics returns those of a proxy, by name.
func Metrics(ctx context.Context, way Way, pod types.NamespacedName) (map[string]*dto.MetricFamily, error) {
	body, err := way.Get(ctx, pod, wire.PortMetrics, "/metrics")
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", pod, err)
	}
	defer func() { _ = body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(body)
	if err != nil {
		return nil, fmt.Errorf("metrics of proxy %s: %w", pod, err)
	}
	return families, nil
}

// atOnce is how many proxies are asked at a time.
const atOnce = 8

// Each calls ask for every pod, several at a time, and returns when all have been asked. ask must be safe for
// concurrent use.
func Each(pods []types.NamespacedName, ask func(i int, pod types.NamespacedName)) {
	room := make(chan struct{}, atOnce)
	var asking sync.WaitGroup
	for i, pod := range pods {
		room <- struct{}{}
		asking.Go(func() {
			defer func() { <-room }()
			ask(i, pod)
		})
	}
	asking.Wait()
}
