//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// site is two enrolled namespaces of one test: the clients of both send to a routed Service of the first,
// so that all of their proxies are in the way.
type site struct {
	home, abroad string
	clients      []*testbed.Pod
	route        *gwv1.HTTPRoute
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{home: bed.Namespace(t, true), abroad: bed.Namespace(t, true)}
	backend := map[string]string{"role": "backend"}
	pods := bed.Run(t, s.home,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: backend},
		testbed.App{Name: "v2", Version: "v2", Node: "node2", Labels: backend},
		testbed.App{Name: "client", Node: "node1"})
	s.clients = append(bed.Run(t, s.abroad, testbed.App{Name: "client", Node: "node2"}), pods[2])
	bed.Create(t, testbed.NewService(s.home, "web", backend))
	bed.Proxies(t, s.home)
	bed.Proxies(t, s.abroad)
	s.route = testbed.HTTPRoute(t, s.home, `
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Mark, value: first}]}}]
    backendRefs: [{name: web, port: 80}]
`)
	bed.Program(t, s.route)
	for _, c := range s.clients {
		eventually(t, c, s.request(), marked("first"))
		captured(t, c, traffic.Request{URL: s.service() + ":9000", Protocol: traffic.GRPC})
		captured(t, c, traffic.Request{URL: s.service() + ":9090", Protocol: traffic.TCP, Body: "a line"})
	}
	return s
}

func (s *site) service() string          { return "web." + s.home }
func (s *site) request() traffic.Request { return traffic.Request{URL: "http://" + s.service()} }

// load sends from all clients. Each load sends on for a while before it counts as begun.
func (s *site) load(t *testing.T) []*testbed.Load {
	t.Helper()
	var loads []*testbed.Load
	for _, c := range s.clients {
		loads = append(loads, everyWay(t, c, s.service())...)
	}
	more(loads)
	return loads
}

// more waits until each load has sent on for a while.
func more(loads []*testbed.Load) {
	for _, l := range loads {
		l.More(20)
	}
}

// remark changes the mark that the route sets, and waits until every client's requests have it.
func (s *site) remark(t *testing.T, mark string) {
	t.Helper()
	testbed.Update(t, bed, s.route, func(r *gwv1.HTTPRoute) {
		r.Spec.Rules[0].Filters[0].RequestHeaderModifier.Set[0].Value = mark
	})
	bed.AwaitProgrammed(t, s.route)
	for _, c := range s.clients {
		always(t, c, s.request(), marked(mark))
	}
}

// TestProxyRestart replaces all proxies of both namespaces under load.
func TestProxyRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	loads := s.load(t)
	for _, namespace := range []string{s.home, s.abroad} {
		old := bed.Proxies(t, namespace)
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: meshv1alpha1.ProxyName}}
		bed.Restart(t, deployment)
		bed.Proxies(t, namespace)
		// What ends is drained first, so the end of all old pods belongs to the restart.
		for _, p := range old {
			gone(t, p)
		}
	}
	more(loads)
	s.remark(t, "after")
	unharmed(t, loads)
}

// gone waits until a pod has ended.
func gone(t *testing.T, p *testbed.Pod) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		var pod corev1.Pod
		err := bed.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Name}, &pod)
		if err == nil && pod.UID == p.UID {
			return fmt.Errorf("pod %s/%s has not ended", p.Namespace, p.Name)
		}
		return client.IgnoreNotFound(err)
	})
}

// TestAgentRestart replaces the node agents under load.
func TestAgentRestart(t *testing.T) {
	s := newSite(t)
	loads := s.load(t)
	agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: testbed.SystemNamespace, Name: "weft-node"}}
	testbed.Update(t, bed, agents, func(d *appsv1.DaemonSet) { testbed.Restarted(&d.Spec.Template) })
	rolledOut(t, agents)
	more(loads)
	s.remark(t, "after")
	unharmed(t, loads)
}

// rolledOut waits until the agents of all nodes are of the present generation and ready.
func rolledOut(t *testing.T, agents *appsv1.DaemonSet) {
	t.Helper()
	testbed.Await(t, bed, agents, func(d *appsv1.DaemonSet) string {
		if d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedNumberScheduled != d.Status.DesiredNumberScheduled ||
			d.Status.NumberAvailable != d.Status.DesiredNumberScheduled || d.Status.DesiredNumberScheduled == 0 {
			return fmt.Sprintf("not rolled out: %+v", d.Status)
		}
		return ""
	})
}

// TestOperatorKill kills the operator's process without notice, three times, under load. Meanwhile
// everything goes on as it was, and what is changed without an operator comes into force with the next.
func TestOperatorKill(t *testing.T) {
	s := newSite(t)
	loads := s.load(t)
	for n := range 3 {
		killed := operator(t)
		pid, err := processOf(killed)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		more(loads)
		begun := time.Now()
		s.remark(t, fmt.Sprintf("after-%d", n))
		t.Logf("killed process %d; an edit made without an operator was in force after %s", pid, time.Since(begun).Round(time.Millisecond))
		if now := operator(t); now.UID == killed.UID && now.Status.ContainerStatuses[0].ContainerID == killed.Status.ContainerStatuses[0].ContainerID {
			t.Fatal("the operator was not killed")
		}
	}
	unharmed(t, loads)
}

// operator returns the operator's pod once its container runs and is ready.
func operator(t *testing.T) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	testbed.Eventually(t, func(ctx context.Context) error {
		var list corev1.PodList
		if err := bed.Client.List(ctx, &list, client.InNamespace(testbed.SystemNamespace), client.MatchingLabels{meshv1alpha1.ComponentLabel: "operator"}); err != nil {
			return err
		}
		for i := range list.Items {
			pod := &list.Items[i]
			if len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].Ready && pod.DeletionTimestamp == nil {
				found = pod
				return nil
			}
		}
		return errors.New("no operator is ready")
	})
	return found
}

// processOf finds the one process of a pod on this machine: its control group is named after the
// container.
func processOf(pod *corev1.Pod) (int, error) {
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, fmt.Errorf("processes: %w", err)
	}
	for _, group := range groups {
		// A process that has ended meanwhile is not the one.
		if data, err := os.ReadFile(group); err == nil && id != "" && strings.Contains(string(data), id) {
			return strconv.Atoi(filepath.Base(filepath.Dir(group)))
		}
	}
	return 0, fmt.Errorf("no process of container %q runs on this machine", id)
}
