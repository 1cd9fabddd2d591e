//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// usual is how long a healthy backend of TestResilience takes to answer.
const usual = 10 * time.Millisecond

// instances are the pods behind one Service, each good for something else.
type instances struct {
	home, abroad                         string
	good, slow, failing, killed, refusal *testbed.Pod
	clients                              []*testbed.Pod
}

func (s *instances) all() []*testbed.Pod {
	return []*testbed.Pod{s.good, s.slow, s.failing, s.killed, s.refusal}
}

// counts returns how many requests each instance has had, which may begin anew with an instance.
func (s *instances) counts(t *testing.T, behaviour map[*testbed.Pod]traffic.Behaviour) map[*testbed.Pod]int {
	t.Helper()
	counts := map[*testbed.Pod]int{}
	for _, p := range s.all() {
		b, known := behaviour[p]
		if !known {
			b.Delay = usual
		}
		counts[p] = p.Behave(t, b)
	}
	return counts
}

func newInstances(t *testing.T) *instances {
	t.Helper()
	s := &instances{home: bed.Namespace(t, true), abroad: bed.Namespace(t, true)}
	backend := map[string]string{"role": "backend"}
	var apps []testbed.App
	for i, name := range []string{"good", "slow", "failing", "killed", "refusing"} {
		apps = append(apps, testbed.App{Name: name, Labels: backend, Node: fmt.Sprintf("node%d", i%2+1), Restart: true})
	}
	pods := bed.Run(t, s.home, append(apps, testbed.App{Name: "client", Node: "node1"})...)
	s.good, s.slow, s.failing, s.killed, s.refusal = pods[0], pods[1], pods[2], pods[3], pods[4]
	s.clients = append(bed.Run(t, s.abroad, testbed.App{Name: "client", Node: "node2"}), pods[5])
	service := testbed.NewService(s.home, "web", backend)
	bed.Create(t, service)
	seen(t, service)
	bed.Proxies(t, s.home)
	bed.Proxies(t, s.abroad)
	for _, c := range s.clients {
		captured(t, c, traffic.Request{URL: "http://web." + s.home})
	}
	return s
}

// TestResilience: of five instances one is slow, one fails, one crashes and one refuses connections, and
// no client sees any of it. Once they are ejected they get next to nothing, and all once they are well.
func TestResilience(t *testing.T) {
	t.Parallel()
	s := newInstances(t)
	policy := testbed.MeshPolicy(t, s.home, `
metadata: {name: resilience}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  timeouts: {request: 10s, backendRequest: 2s}
  retry:
    attempts: 3
    codes: [500, 502, 503, 504]
    budget: {percent: 100}
  outlierEjection:
    consecutiveFailures: 3
    latencyFactor: 4
    interval: 1s
    minRequests: 5
    ejectionTime: 2s
    maxEjectionTime: 10s
    maxEjectedPercent: 80
    panicPercent: 10 # while the killed instance is away one of four is left
`)
	bed.Enforce(t, policy)
	s.counts(t, nil)
	var loads []*testbed.Load
	for _, c := range s.clients {
		loads = append(loads, c.Load(t, traffic.Load{
			Requests: []traffic.Request{{URL: "http://web." + s.home}}, Workers: 8, Rate: 150, ChangesOnly: true,
		}))
	}
	more(loads)

	// What is wrong with each, from now on.
	ill := map[*testbed.Pod]traffic.Behaviour{
		s.slow:    {Delay: 10 * usual},
		s.failing: {Delay: usual, Status: 500},
		s.refusal: {Refuse: true},
	}
	s.counts(t, ill)
	s.killed.Kill(t)
	// It begins anew without a delay, and beside it the good one would be an outlier that is too slow to come back.
	s.counts(t, ill)
	// Who picks: the proxies of the Service's namespace, or of whoever calls pods that have proxies of their own.
	proxies := bed.Proxies(t, s.home)
	if s.good.Beside {
		proxies = bed.ProxiesOf(t, s.clients...)
	}
	testbed.Eventually(t, func(context.Context) error {
		for _, p := range proxies {
			labels := map[string]string{"weft_backend": s.home + "/web:80", "state": "ejected"}
			if n := bed.Metric(t, []*testbed.Pod{p}, "weft_upstream_endpoints", labels); n < 2 {
				return fmt.Errorf("proxy %s has ejected %d instances", p.Name, n)
			}
		}
		return nil
	})
	before, sent := s.counts(t, ill), total(loads)
	for _, l := range loads {
		l.More(2000)
	}
	after, requests := s.counts(t, ill), total(loads)-sent
	share := func(p *testbed.Pod) float64 { return 100 * float64(after[p]-before[p]) / float64(requests) }
	t.Logf("of %d requests: slow %.2f %%, failing %.2f %%, good %.2f %%", requests, share(s.slow), share(s.failing), share(s.good))
	if got := share(s.slow); got >= 5 {
		t.Errorf("the slow instance got %.2f %% of the requests, want less than 5", got)
	}
	if got := share(s.failing); got >= 1 {
		t.Errorf("the failing instance got %.2f %% of the requests, want less than 1", got)
	}

	// All are well again. Each is back once it gets a good part of the requests.
	last, lastSent := s.counts(t, nil), total(loads)
	testbed.Eventually(t, func(context.Context) error {
		for _, l := range loads {
			l.More(100)
		}
		now, nowSent := s.counts(t, nil), total(loads)
		defer func() { last, lastSent = now, nowSent }()
		for _, p := range s.all() {
			if part := 100 * float64(now[p]-last[p]) / float64(nowSent-lastSent); part < 5 {
				return fmt.Errorf("%s gets %.1f %% of the requests", p.Name, part)
			}
		}
		return nil
	})
	unharmed(t, loads)
}

func total(loads []*testbed.Load) int {
	n := 0
	for _, l := range loads {
		n += l.Progress().Sent
	}
	return n
}
