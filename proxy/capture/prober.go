package capture

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	probeInterval = time.Second
	// failureLimit is how many probes in a row must go unanswered before a proxy is out.
	failureLimit = 2
	// burialLimit is how many must go unanswered before nothing is left of its connections. Two say little
	// on a node that is out of breath, and what a proxy that lives after all sends on a connection that its
	// pod has forgotten is lost.
	burialLimit = 15
	// departedFor is how long a proxy that the operator no longer lists is probed on, so that
	// connections to it are not left hanging if it dies while it drains.
	departedFor = 5 * time.Minute
)

// health is what is known of a proxy.
type health int

const (
	// live is where a proxy begins, since the operator lists only proxies that are ready.
	live health = iota
	// overloaded proxies are used only while the namespace has none that is live: around the mesh is
	// no better way than through a slow proxy.
	overloaded
	draining
	dead
)

// connections are those of the pods to a proxy that is lost.
type connections int

const (
	// unanswered ones wait for a sign of life.
	unanswered connections = iota
	all
)

// prober probes the proxies in use, each once in a probeInterval, and remembers how they are.
type prober struct {
	probe func(context.Context, netip.Addr) Verdict
	// changed is called after the health of a proxy has changed.
	changed func(proxy netip.Addr, namespace string, now health)
	// lost is called, after changed, with the connections to a dead proxy that are to be forgotten: all once
	// it is certain that it is gone, and before that, after each probe without an answer, the unanswered ones.
	lost func(proxy netip.Addr, namespace string, forget connections)
	wake chan struct{}

	mu      sync.Mutex
	proxies map[netip.Addr]*probed
}

// probed is one proxy.
type probed struct {
	namespace string
	health    health
	failures  int
	// silent counts the probes in a row to which not even its address has answered.
	silent int
	// gone tells that all connections to it are forgotten.
	gone    bool
	asked   bool
	probing bool
	// answered is closed after the first probe.
	answered chan struct{}
	// departed is when the operator ceased to list it; zero while it does.
	departed time.Time
}

func newProber(probe func(context.Context, netip.Addr) Verdict) *prober {
	return &prober{probe: probe, wake: make(chan struct{}, 1), proxies: map[netip.Addr]*probed{}}
}

// use sets the proxies in use, by address, with their namespaces. New ones are probed at once; the
// channels returned are closed when each of them has been.
func (p *prober) use(proxies map[netip.Addr]string) (answered []<-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, namespace := range proxies {
		known := p.proxies[address]
		if known == nil || known.namespace != namespace {
			known = &probed{namespace: namespace, answered: make(chan struct{})}
			p.proxies[address] = known
			answered = append(answered, known.answered)
			p.wakeUp()
			continue
		}
		known.departed = time.Time{}
	}
	for address, known := range p.proxies {
		if _, used := proxies[address]; !used && known.departed.IsZero() {
			known.departed = time.Now()
		}
	}
	return answered
}

// live tells whether new connections shall go to a proxy. One that is not probed counts as live.
func (p *prober) live(address netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.proxies[address]
	if known == nil || known.health == live {
		return true
	}
	return known.health == overloaded && !p.anyLive(known.namespace)
}

// anyLive tells whether a namespace has a live proxy. The lock is held.
func (p *prober) anyLive(namespace string) bool {
	for _, other := range p.proxies {
		if other.namespace == namespace && other.departed.IsZero() && other.health == live {
			return true
		}
	}
	return false
}

// count returns how many proxies in use are live and how many are not.
func (p *prober) count() (up, down int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.proxies {
		switch {
		case !known.departed.IsZero():
		case known.health == live:
			up++
		default:
			down++
		}
	}
	return up, down
}

// run probes until ctx ends, and returns when the last probe has.
func (p *prober) run(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.round(ctx, &probes, func(*probed) bool { return true })
		case <-p.wake:
			p.round(ctx, &probes, func(known *probed) bool { return !known.asked })
		}
	}
}

// round starts a probe of every proxy that is due and not being probed.
func (p *prober) round(ctx context.Context, probes *sync.WaitGroup, due func(*probed) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, known := range p.proxies {
		if !known.departed.IsZero() && (known.gone || time.Since(known.departed) > departedFor) {
			delete(p.proxies, address)
			continue
		}
		if known.probing || !due(known) {
			continue
		}
		known.asked, known.probing = true, true
		probes.Go(func() {
			p.observe(address, known, p.probe(ctx, address))
		})
	}
}

// observe takes the outcome of a probe into account.
func (p *prober) observe(address netip.Addr, known *probed, verdict Verdict) {
	p.mu.Lock()
	known.probing = false
	select {
	case <-known.answered:
	default:
		close(known.answered)
	}
	before := known.health
	known.health, known.failures = judge(known.health, known.failures, verdict)
	after, current := known.health, p.proxies[address] == known
	if before == live && known.failures > 0 && known.failures < failureLimit {
		// The proxy is asked again at once: it is used meanwhile.
		known.asked = false
		p.wakeUp()
	}
	forget, lost := known.loss(verdict)
	p.mu.Unlock()
	if before != after && current {
		p.changed(address, known.namespace, after)
	}
	if lost && current {
		p.lost(address, known.namespace, forget)
	}
}

// loss tells whether connections to a proxy are to be forgotten after a probe, and which.
func (k *probed) loss(verdict Verdict) (forget connections, lost bool) {
	switch verdict {
	case Silent:
		k.silent++
	case Unknown:
	default:
		k.silent = 0
	}
	if k.health != dead {
		k.gone = false
		return 0, false
	}
	switch {
	case k.gone || verdict != Refused && verdict != Silent:
		return 0, false
	case verdict == Refused || k.silent >= burialLimit:
		k.gone = true
		return all, true
	}
	return unanswered, true
}

// ended tells that a proxy of this node has ended, which no probe needs to find out.
func (p *prober) ended(address netip.Addr) {
	p.mu.Lock()
	known := p.proxies[address]
	p.mu.Unlock()
	if known != nil {
		p.observe(address, known, Refused)
	}
}

// wakeUp makes run probe those that have not been asked.
func (p *prober) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// judge returns the health after a probe and how many probes in a row have gone unanswered.
func judge(before health, failures int, verdict Verdict) (after health, unanswered int) {
	switch verdict {
	case Accepting:
		return live, 0
	case Draining:
		return draining, 0
	case Refused:
		return dead, 0
	case Silent, Slow:
		failures++
		if failures < failureLimit {
			return before, failures
		}
		if verdict == Silent {
			return dead, failures
		}
		return overloaded, failures
	default:
		return before, failures
	}
}
