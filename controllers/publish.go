package controllers

import (
	"context"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
)

// compile is the one pass: read what has changed, compile it, publish, tell the status writer. settings has what
// concerns everybody read as well. The first pass reads everything.
func (w *World) compile(ctx context.Context, settings bool) (reconcile.Result, error) {
	if w.started.IsZero() {
		w.started = time.Now()
		w.numbers = numberStore{client: w.Client, reader: w.Direct, namespace: w.SystemNamespace}
	}
	w.unsettled = w.unsettled || settings
	noted := w.noted.take()
	first := w.compiler == nil
	if err := w.update(ctx, noted); err != nil {
		w.noted.add(noted...)
		return reconcile.Result{}, err
	}
	w.unsettled = false
	exposed, err := w.publishCompiled(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	if first {
		// Reading everything leaves more garbage behind than there is to keep.
		go debug.FreeOSMemory()
	}
	if w.podsOf == nil || exposed || w.replaced || !maps.Equal(w.served(), w.podsOf) {
		return w.pods(ctx)
	}
	return w.acknowledged()
}

// update lets the compiler know what has changed. What it says to it is kept until it is published.
func (w *World) update(ctx context.Context, noted []object) error {
	if w.compiler == nil {
		return w.first(ctx)
	}
	changes, err := w.read(ctx, noted)
	if err != nil {
		return err
	}
	if w.unsettled || len(changes.MeshAuthorizations) > 0 {
		settings, err := w.settings(ctx)
		if err != nil {
			return err
		}
		changes.Settings = &settings
	}
	changes.Numbers = w.reusable()
	w.recount = w.recount || w.unpublished.Resources != nil
	w.unpublished = w.unpublished.Then(w.compiler.Update(changes))
	w.addStale(slices.Collect(maps.Values(changes.HTTPRoutes)), slices.Collect(maps.Values(changes.GRPCRoutes)))
	return w.followRetired(ctx, changes.EndpointSlices)
}

// first is the pass that reads everything.
func (w *World) first(ctx context.Context) error {
	settings, err := w.settings(ctx)
	if err != nil {
		return err
	}
	given, err := w.numbers.load(ctx)
	if err != nil {
		return err
	}
	snapshot, err := cluster.Load(ctx, w.Client)
	if err != nil {
		return err
	}
	settings.Numbers = given
	settings.Services, settings.EndpointSlices = snapshot.Services, snapshot.EndpointSlices
	settings.HTTPRoutes, settings.GRPCRoutes = snapshot.HTTPRoutes, snapshot.GRPCRoutes
	settings.MeshPolicies, settings.MeshAuthorizations = snapshot.MeshPolicies, snapshot.MeshAuthorizations
	w.compiler, w.unpublished = compile.NewCompiler(settings)
	w.addStale(snapshot.HTTPRoutes, snapshot.GRPCRoutes)
	return nil
}

// settings reads what concerns everybody.
func (w *World) settings(ctx context.Context) (compile.Snapshot, error) {
	s, err := cluster.Settings(ctx, w.Client)
	if err != nil {
		return s, err
	}
	s.TrustBundle, s.SystemNamespace = w.TrustBundle(), w.SystemNamespace
	w.place(&s)
	if err := w.tell(ctx, &s); err != nil {
		return s, err
	}
	if err := w.findStarting(ctx, s.Namespaces); err != nil {
		return s, err
	}
	s.Starting = w.starting
	authorizations, err := cluster.Authorizations(ctx, w.Client)
	if err != nil {
		return s, err
	}
	if s.ServiceAccounts, err = w.serviceAccounts(ctx, len(authorizations)); err != nil {
		return s, err
	}
	s.KeySets, err = w.keySets(ctx, s, authorizations)
	return s, err
}

// addStale has our entries taken away from the statuses of routes that are the mesh's no more.
func (w *World) addStale(httpRoutes []*gwv1.HTTPRoute, grpcRoutes []*gwv1.GRPCRoute) {
	for _, s := range status.Stale(httpRoutes, grpcRoutes) {
		w.unpublished.Routes[compile.Target{Kind: string(s.Kind), Namespace: s.Name.Namespace, Name: s.Name.Name}] = &s
	}
}

// followRetired keeps the endpoints of retired backends up to date, which the compiler has forgotten.
func (w *World) followRetired(ctx context.Context, changed map[types.NamespacedName][]*discoveryv1.EndpointSlice) error {
	for ref, r := range w.retired {
		if ref.Kind != wire.KindBackend {
			continue
		}
		name := types.NamespacedName{Namespace: r.Backend.Namespace, Name: r.Backend.Service}
		list, concerned := changed[name]
		if !concerned {
			continue
		}
		service, err := get[corev1.Service](ctx, w.Client, name)
		if err != nil {
			return err
		}
		if service != nil {
			w.followed = append(w.followed, compile.Endpoints(*r, service, list))
		}
	}
	return nil
}

// publishCompiled hands on what is unpublished. It reports whether other ports of pods are published by Services.
func (w *World) publishCompiled(ctx context.Context) (exposed bool, err error) {
	d := w.unpublished
	if d.Numbers {
		if err := w.numbers.save(ctx, w.compiler.Numbers()); err != nil {
			return false, err
		}
	}
	w.unpublished = compile.Delta{}
	seq := w.publishResources(&d)
	w.inForce.remember(d.Policies)
	w.setTrusted(w.compiler.TrustBundle(), seq)
	w.setEnrolled(w.compiler.Enrolled(), seq)
	w.Status.Update(d)
	if exposed = w.setExposures(d.Exposures); exposed {
		w.revision++
	}
	return exposed, nil
}

// publishResources publishes what is compiled, and returns the publication. What is gone and may still be needed is
// retired.
func (w *World) publishResources(d *compile.Delta) uint64 {
	first := w.published == nil
	if first {
		w.published, w.authorizations = map[wire.Ref]*wire.Resource{}, map[wire.Ref]*wire.Resource{}
		w.numbered, w.unused = map[uint16]int{}, map[compile.NumberKey]time.Time{}
	}
	gone := map[wire.Ref]*wire.Resource{}
	maps.Copy(gone, w.retired)
	upserts := make([]*wire.Resource, 0, len(d.Resources))
	recapture, rejudge := first, first
	for ref, r := range d.Resources {
		was, known := w.published[ref]
		if r == nil {
			if known {
				gone[ref] = was
				recapture = recapture || concernsNodes(ref.Kind)
				rejudge = rejudge || ref.Kind == wire.KindAuthorization
			}
			continue
		}
		_, retired := gone[ref]
		delete(gone, ref)
		recapture = recapture || retired || !known && concernsNodes(ref.Kind) || known && capturedOtherwise(was, r)
		rejudge = rejudge || r.Authorization != nil
		said := r
		if r.Endpoints != nil {
			backend := d.Resources[backendOf(ref)]
			if backend == nil {
				backend = w.published[backendOf(ref)]
			}
			said = compile.Speak(r, backend, w.beside)
		}
		w.setPublished(ref, said)
		upserts = append(upserts, said)
	}
	w.retired = retire(gone)
	var removals []wire.Ref
	for ref := range gone {
		if _, stays := w.retired[ref]; !stays {
			w.setPublished(ref, nil)
			removals = append(removals, ref)
			recapture = recapture || concernsNodes(ref.Kind)
		}
	}
	for _, r := range w.followed {
		if _, retired := w.retired[r.Ref]; retired {
			w.retired[r.Ref], w.published[r.Ref] = &r, &r
			upserts = append(upserts, &r)
		}
	}
	w.followed = nil
	if recapture {
		w.revision++
	}
	if first || w.recount {
		w.countNumbers()
	}
	if rejudge {
		w.releases.needed = neededFor(w.authorizations)
	}
	if first {
		return w.Hub.ReplaceShared(distribute.LayerCompiled, upserts)
	}
	return w.Hub.PatchShared(distribute.LayerCompiled, upserts, removals)
}

// concernsNodes tells that captures are made from resources of a kind.
func concernsNodes(kind wire.Kind) bool {
	return kind == wire.KindDestination || kind == wire.KindRoute || kind == wire.KindAuthorization
}

// capturedOtherwise tells that the change of a resource concerns captures.
func capturedOtherwise(was, now *wire.Resource) bool {
	if now.Route != nil {
		return was.Scope != now.Scope || !slices.Equal(was.Route.Destinations, now.Route.Destinations)
	}
	return concernsNodes(now.Kind)
}

// finishRetirement drops retired resources, and lets namespaces leave, once every node holds captures
// without them. It reports whether they do.
func (w *World) finishRetirement() bool {
	w.mu.Lock()
	nothing := w.settled && len(w.retired) == 0 && len(w.withdrawn) == 0
	w.mu.Unlock()
	if nothing {
		return true
	}
	if !w.nodesHoldCaptures() {
		return false
	}
	var seq uint64
	if len(w.retired) > 0 {
		gone := slices.Collect(maps.Keys(w.retired))
		for _, ref := range gone {
			w.setPublished(ref, nil)
		}
		w.retired = nil
		w.revision++
		seq = w.Hub.Patch(distribute.LayerCompiled, nil, gone)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled = true
	w.retiring = nil
	clear(w.withdrawn)
	for namespace, before := range w.leaving {
		w.leaving[namespace] = max(before, seq)
	}
	return true
}

// setPublished notes what is published of a resource, nil for nothing.
func (w *World) setPublished(ref wire.Ref, r *wire.Resource) {
	was := w.published[ref]
	if r == nil {
		delete(w.published, ref)
	} else {
		w.published[ref] = r
	}
	switch ref.Kind {
	case wire.KindAuthorization:
		if r == nil {
			delete(w.authorizations, ref)
		} else {
			w.authorizations[ref] = r
		}
	case wire.KindDestination:
		if r != nil {
			w.useNumber(r.Destination.Number)
		}
		if was != nil {
			w.leaveNumber(was.Destination.Number)
		}
	default:
	}
}

// useNumber notes that one more destination has a number.
func (w *World) useNumber(number uint16) {
	if w.numbered[number]++; w.numbered[number] > 1 {
		return
	}
	if key, given := w.compiler.Holder(number); given {
		delete(w.unused, key)
	}
}

// leaveNumber notes that one destination fewer has it.
func (w *World) leaveNumber(number uint16) {
	if w.numbered[number]--; w.numbered[number] > 0 {
		return
	}
	delete(w.numbered, number)
	if key, given := w.compiler.Holder(number); given {
		w.unused[key] = time.Now()
	}
}

// countNumbers finds out which numbers have no destination, and since when: it may never have been published. It looks
// at all there are.
func (w *World) countNumbers() {
	w.recount = false
	unused := map[compile.NumberKey]time.Time{}
	for key, number := range w.compiler.Numbers() {
		if w.numbered[number] > 0 {
			continue
		}
		unused[key] = time.Now()
		if since, known := w.unused[key]; known {
			unused[key] = since
		}
	}
	w.unused = unused
}

// reusable are the numbers that nothing can use any more.
func (w *World) reusable() []compile.NumberKey {
	if len(w.unused) == 0 || !w.nodesHoldCaptures() {
		return nil
	}
	var keys []compile.NumberKey
	for key, since := range w.unused {
		if time.Since(since) > numberQuarantine {
			keys = append(keys, key)
			delete(w.unused, key)
		}
	}
	return keys
}
