package engine

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"weft.dev/weft/proxy/authz"
	"weft.dev/weft/proxy/ratelimit"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// maxDeparted bounds how many departed destinations, and how many departed backends, are remembered.
const maxDeparted = 4096

// builder holds what configurations are built from. It belongs to Apply, which is called serially.
type builder struct {
	mesh   *wire.Mesh
	specs  map[string]*wire.Destination
	routes map[string]*wire.Route
	// attached are the routes of each destination, in the order of their arrival.
	attached map[string][]*wire.Route

	backends     shared[string, *wire.Backend]
	endpoints    shared[string, *wire.Endpoints]
	proxies      shared[string, *wire.Proxies]
	certificates shared[string, *wire.Certificate]
	workloads    shared[netip.Addr, *wire.Workload]
	// pod is that of a proxy beside one, nil until it is known.
	pod *ownPod
	// authorizations are those in force, with what stands for those that cannot be used.
	authorizations shared[string, *authz.Policy]

	departed queue
	// gone are backends that were configured until lately and have a cluster IP.
	gone      shared[string, *wire.Backend]
	goneOrder queue
}

func newBuilder() *builder {
	return &builder{
		specs:    map[string]*wire.Destination{},
		routes:   map[string]*wire.Route{},
		attached: map[string][]*wire.Route{},
	}
}

// change is one delta on its way from a builder into a configuration.
type change struct {
	*builder
	engine       *Engine
	destinations *draft[string, *destination]
	leaving      *draft[string, *destination]
	numbers      *draft[uint16, string]
	addresses    *draft[netip.AddrPort, string]
	limits       *draft[wire.Ref, *ratelimit.Limiter]
	reached      *draft[string, *reached]
	// touched are the destinations whose inputs changed.
	touched  map[string]struct{}
	rejected []wire.Rejection
	obsolete []telemetry.Labels
}

// Apply brings the engine from its present configuration to that of delta in one swap. It returns the
// resources that cannot be used; their previous version stays in force. It is called serially, and
// keeps the contents of delta, which nobody may change afterwards.
func (e *Engine) Apply(delta wire.Delta) []wire.Rejection {
	started := time.Now()
	old := e.config.Load()
	c := &change{
		builder:      e.builder,
		engine:       e,
		destinations: old.destinations.edit(),
		leaving:      old.departed.edit(),
		numbers:      old.numbers.edit(),
		addresses:    old.addresses.edit(),
		limits:       old.limits.edit(),
		reached:      old.reached.edit(),
		touched:      map[string]struct{}{},
	}
	for _, ref := range delta.Removed {
		c.remove(ref)
	}
	usable := make([]*wire.Resource, 0, len(delta.Upserted))
	for i := range delta.Upserted {
		r := &delta.Upserted[i]
		if err := e.validate(r); err != nil {
			c.reject(r, err)
			c.closeFor(r)
			continue
		}
		usable = append(usable, r)
	}
	c.claimNumbers(usable)
	for _, r := range usable {
		c.upsert(r)
	}
	c.updateIdentity(usable)
	c.rebuild()

	next := &config{
		view:     old.view,
		direct:   old.direct,
		mesh:     old.mesh,
		strays:   old.strays,
		policies: old.policies,
		replaced: make(chan struct{}),
	}
	next.pod = c.pod
	if c.backends.changed() || c.endpoints.changed() || c.proxies.changed() || c.pod != old.pod {
		next.view = e.upstream.Update(upstream.Resources{
			Backends:  c.backends.publish(),
			Endpoints: c.endpoints.publish(),
			Proxies:   c.proxies.publish(),
			Own:       c.pod.endpoints(),
		})
	}
	if c.gone.changed() {
		next.direct = e.direct.Update(clusterIPs(c.gone.publish()))
	}
	if c.mesh != nil {
		next.mesh = *c.mesh
	}
	authorized := c.authorizations.changed()
	if authorized {
		next.policies = authz.NewPolicies(slices.Collect(maps.Values(c.authorizations.publish())))
	}
	next.destinations = c.destinations.index
	next.departed = c.leaving.index
	next.numbers = c.numbers.index
	next.addresses = c.addresses.index
	next.limits = c.limits.index
	next.reached = c.reached.index
	e.config.Store(next)
	close(old.replaced)
	if authorized {
		e.relays.begin()
		go func() {
			defer e.relays.end()
			e.reconsiderAll()
		}()
	}

	if c.workloads.changed() {
		e.workloads.Update(c.workloads.publish())
	}
	for _, labels := range c.obsolete {
		e.metrics.Drop(labels)
	}
	if authorized || len(c.obsolete) > 0 {
		e.metrics.ForgetDecisions(func(d telemetry.Decision) bool { return c.forgotten(d) })
	}
	for _, rejection := range c.rejected {
		e.metrics.ConfigRejected(string(rejection.Kind))
		e.options.Log.Info("Rejected a resource; its previous version stays in force",
			"resource", rejection.String(), "version", rejection.Version, "reason", rejection.Reason)
	}
	e.metrics.ConfigApplied(delta.Seq, time.Since(started))
	e.configured.Store(true)
	e.reportReady()
	return c.rejected
}

func (c *change) reject(r *wire.Resource, err error) {
	c.rejected = append(c.rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: err.Error()})
}

func (c *change) upsert(r *wire.Resource) {
	switch r.Kind {
	case wire.KindRoute:
		c.limit(r.Ref, r.Route.Policy)
		c.attach(r.Key, r.Route)
	case wire.KindBackend:
		c.limitBackend(r.Ref, r.Backend)
		c.backends.set(r.Key, r.Backend)
		if !c.reached.has(r.Key) {
			c.reached.set(r.Key, new(reached))
		}
		c.gone.remove(r.Key)
		c.goneOrder.remove(r.Key)
	case wire.KindEndpoints:
		c.endpoints.set(r.Key, r.Endpoints)
	case wire.KindProxies:
		c.proxies.set(r.Key, r.Proxies)
	case wire.KindWorkload:
		c.workloads.set(r.Workload.Address.Unmap(), r.Workload)
	case wire.KindAuthorization:
		c.authorize(r)
	case wire.KindSidecar:
		c.pod = newOwnPod(r.Sidecar)
	case wire.KindDestination, wire.KindMesh, wire.KindCertificate, wire.KindCapture, wire.KindInbound:
		// claimNumbers and updateIdentity take these, because they judge them together.
	}
}

func (c *change) remove(ref wire.Ref) {
	c.limits.remove(ref)
	switch ref.Kind {
	case wire.KindDestination:
		delete(c.specs, ref.Key)
		c.touched[ref.Key] = struct{}{}
	case wire.KindRoute:
		c.detach(ref.Key)
	case wire.KindBackend:
		if backend := c.backends.get(ref.Key); backend != nil && len(backend.Addresses) > 0 && !c.engine.sidecar() {
			c.gone.set(ref.Key, backend)
			if oldest, full := c.goneOrder.push(ref.Key); full {
				c.gone.remove(oldest)
			}
		}
		c.backends.remove(ref.Key)
		c.reached.remove(ref.Key)
		c.obsolete = append(c.obsolete, plainLabels(listenerHop, ref.Key)...)
	case wire.KindEndpoints:
		c.endpoints.remove(ref.Key)
	case wire.KindProxies:
		c.proxies.remove(ref.Key)
	case wire.KindWorkload:
		if address, err := netip.ParseAddr(ref.Key); err == nil {
			c.workloads.remove(address.Unmap())
		}
	case wire.KindCertificate:
		c.certificates.remove(ref.Key)
	case wire.KindAuthorization:
		c.authorizations.remove(ref.Key)
	case wire.KindMesh, wire.KindCapture, wire.KindInbound, wire.KindSidecar:
		// A pod ends with its proxy. Without a mesh there is no trust to fall back to, so the last one stays.
	}
}

// attach replaces a route and marks the destinations that it is or was attached to.
func (c *change) attach(key string, route *wire.Route) {
	c.detach(key)
	c.routes[key] = route
	for _, destination := range route.Destinations {
		c.attached[destination] = append(c.attached[destination], route)
		c.touched[destination] = struct{}{}
	}
}

func (c *change) detach(key string) {
	route := c.routes[key]
	if route == nil {
		return
	}
	delete(c.routes, key)
	for _, destination := range route.Destinations {
		others := slices.DeleteFunc(c.attached[destination], func(r *wire.Route) bool { return r == route })
		if len(others) == 0 {
			delete(c.attached, destination)
		} else {
			c.attached[destination] = others
		}
		c.touched[destination] = struct{}{}
	}
}

// claimNumbers takes over the destinations among resources. All of them first let go of the numbers
// they have, so that two may change places in one delta.
func (c *change) claimNumbers(resources []*wire.Resource) {
	for _, r := range resources {
		if r.Kind != wire.KindDestination {
			continue
		}
		if spec := c.specs[r.Key]; spec != nil && spec.Number != 0 {
			c.numbers.remove(spec.Number)
		}
	}
	for _, r := range resources {
		if r.Kind != wire.KindDestination {
			continue
		}
		if err := c.claim(r.Key, r.Destination); err != nil {
			c.reject(r, err)
			if spec := c.specs[r.Key]; spec != nil && spec.Number != 0 && !c.numbers.has(spec.Number) {
				c.numbers.set(spec.Number, r.Key)
			}
		}
	}
}

func (c *change) claim(key string, d *wire.Destination) error {
	if d.Number != 0 {
		holder := c.numbers.get(d.Number)
		if _, configured := c.specs[holder]; configured && holder != key {
			return numberTakenError{number: d.Number, holder: holder}
		}
		c.numbers.set(d.Number, key)
	}
	c.addressed(key, d)
	c.specs[key] = d
	c.touched[key] = struct{}{}
	return nil
}

// addressed leads the cluster IPs of a destination to it where the proxy is beside a pod, in the place of those that it had.
func (c *change) addressed(key string, d *wire.Destination) {
	if !c.engine.sidecar() {
		return
	}
	if before := c.specs[key]; before != nil {
		c.unaddressed(key, before)
	}
	for _, address := range d.Addresses {
		c.addresses.set(netip.AddrPortFrom(address.Unmap(), d.Port), key)
	}
}

// unaddressed ends what addressed has begun, as far as no other destination has the addresses since.
func (c *change) unaddressed(key string, d *wire.Destination) {
	for _, address := range d.Addresses {
		if at := netip.AddrPortFrom(address.Unmap(), d.Port); c.addresses.get(at) == key {
			c.addresses.remove(at)
		}
	}
}

// updateIdentity hands mesh and certificates to their store, which judges them, and takes back those
// that it cannot use.
func (c *change) updateIdentity(resources []*wire.Resource) {
	candidates := map[wire.Ref]*wire.Resource{}
	previous := map[string]*wire.Certificate{}
	mesh := c.mesh
	for _, r := range resources {
		switch r.Kind {
		case wire.KindMesh:
			mesh = r.Mesh
			candidates[r.Ref] = r
		case wire.KindCertificate:
			previous[r.Key] = c.certificates.get(r.Key)
			c.certificates.set(r.Key, r.Certificate)
			candidates[r.Ref] = r
		default:
		}
	}
	if mesh == c.mesh && !c.certificates.changed() {
		return
	}
	failed := c.engine.identity.Update(mesh, c.certificates.publish())
	c.engine.metrics.Certificates(c.engine.identity.Ends())
	if failed[wire.Ref{Kind: wire.KindMesh, Key: "mesh"}] == nil {
		c.mesh = mesh
		if mesh != nil {
			c.engine.spans.Use(mesh.Traces)
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(failed), compareRefs) {
		err := failed[ref]
		if r := candidates[ref]; r != nil {
			c.reject(r, err)
		} else {
			c.engine.options.Log.Error("A certificate is of no use any more", "resource", ref.String(), "error", err)
		}
		if before, replaced := previous[ref.Key]; ref.Kind == wire.KindCertificate && replaced {
			c.certificates.remove(ref.Key)
			if before != nil {
				c.certificates.set(ref.Key, before)
			}
		}
	}
}

func compareRefs(a, b wire.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
}

// rebuild compiles the destinations whose inputs changed.
func (c *change) rebuild() {
	for _, key := range slices.Sorted(maps.Keys(c.touched)) {
		before := c.destinations.get(key)
		spec := c.specs[key]
		switch {
		case spec != nil:
			if before == nil {
				before = c.leaving.get(key)
				c.leaving.remove(key)
				c.departed.remove(key)
			}
			after := newDestination(key, before, spec, c.attached[key], &c.limits.index, c.engine.metrics)
			c.destinations.set(key, after)
			c.releaseNumber(before, spec.Number)
			c.dropUnused(before, after)
		case before != nil:
			c.destinations.remove(key)
			c.leaving.set(key, before.withDeparted())
			if oldest, full := c.departed.push(key); full {
				forgotten := c.leaving.get(oldest)
				c.leaving.remove(oldest)
				if forgotten != nil {
					c.unaddressed(oldest, forgotten.Destination)
				}
				c.releaseNumber(forgotten, 0)
				c.dropUnused(forgotten, nil)
			}
		}
	}
}

// releaseNumber forgets the number of a destination that has another one now, or none.
func (c *change) releaseNumber(before *destination, now uint16) {
	if before != nil && before.Number != 0 && before.Number != now && c.numbers.get(before.Number) == before.key {
		c.numbers.remove(before.Number)
	}
}

// dropUnused notes the metrics of before that after does not use.
func (c *change) dropUnused(before, after *destination) {
	if before == nil {
		return
	}
	if after == nil {
		c.obsolete = append(c.obsolete, plainLabels(listenerCaptured, before.key)...)
	}
	var now []*wire.Route
	if after != nil {
		now = after.routes
	}
	for _, route := range before.routes {
		if len(now) > 0 && now[0] == route {
			now = now[1:] // what stays keeps its order
			continue
		}
		for _, labels := range ruleLabels(before.key, route) {
			if after == nil || !after.uses(route, labels) {
				c.obsolete = append(c.obsolete, labels)
			}
		}
	}
}

// uses tells whether a rule of the route that another rule is of, or was, has a series with these labels.
func (d *destination) uses(other *wire.Route, labels telemetry.Labels) bool {
	return slices.ContainsFunc(d.routes, func(route *wire.Route) bool {
		return route.Name == other.Name && route.Namespace == other.Namespace && route.Kind == other.Kind &&
			slices.Contains(ruleLabels(d.key, route), labels)
	})
}

// clusterIPs returns what it takes to reach backends by the cluster IPs of their Services.
func clusterIPs(backends map[string]*wire.Backend) upstream.Resources {
	r := upstream.Resources{
		Backends:  make(map[string]*wire.Backend, len(backends)),
		Endpoints: make(map[string]*wire.Endpoints, len(backends)),
	}
	for key, backend := range backends {
		plain := *backend
		plain.Meshed, plain.Policy = false, nil // as if the mesh were not there
		r.Backends[key] = &plain
		r.Endpoints[key] = &wire.Endpoints{Endpoints: []wire.Endpoint{
			{Address: netip.AddrPortFrom(backend.Addresses[0], backend.Port)},
		}}
	}
	return r
}
