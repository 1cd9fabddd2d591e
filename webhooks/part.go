package webhooks

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// readPart reads the part of a snapshot that decides what Validate says about an object: it says the same of the
// whole. How much that is depends on what the object refers to and on who else refers to that, not on how large the
// mesh is. The reader is to find routes as indexRoutes says. system is the namespace of Weft itself.
func readPart(ctx context.Context, r client.Reader, system string, object metav1.Object) (compile.Snapshot, error) {
	p := newPart(ctx, r, system, object.GetNamespace())
	switch o := object.(type) {
	case *meshv1alpha1.Mesh:
		p.decidesMesh(ctx)
	case *meshv1alpha1.MeshPolicy:
		p.decidesPolicy(ctx, o)
	case *meshv1alpha1.MeshAuthorization:
		p.decidesAuthorization(ctx, o)
	case *gwv1.HTTPRoute, *gwv1.GRPCRoute:
		p.decidesRoute(ctx, o)
	}
	return p.snapshot, p.err
}

// readSettings reads what does not depend on other objects: the Mesh, and one namespace beside Weft's own.
func readSettings(ctx context.Context, r client.Reader, system, namespace string) (compile.Snapshot, error) {
	p := newPart(ctx, r, system, namespace)
	return p.snapshot, p.err
}

// part is a part of a snapshot while it is read. After an error nothing more is read.
type part struct {
	reader   client.Reader
	snapshot compile.Snapshot
	err      error
	// What has been looked for already, whether it exists or not.
	namespaces map[string]bool
	services   set
	routes     map[compile.Target]bool
	policies   map[string]bool
	// attached are the routes of which Services are parents; used are those of which all users have been read.
	attached map[types.NamespacedName][]metav1.Object
	used     set
}

func newPart(ctx context.Context, r client.Reader, system, namespace string) *part {
	p := &part{
		reader: r, namespaces: map[string]bool{"": true}, services: set{}, routes: map[compile.Target]bool{}, policies: map[string]bool{},
		attached: map[types.NamespacedName][]metav1.Object{}, used: set{},
	}
	p.snapshot.SystemNamespace = system
	p.snapshot.Mesh, p.err = cluster.Mesh(ctx, r)
	p.namespace(ctx, system)
	p.namespace(ctx, namespace)
	return p
}

// decidesRoute reads what decides about a route, and about the authorizations that follow it: as it was, or as it is to
// be.
func (p *part) decidesRoute(ctx context.Context, route metav1.Object) {
	id := targetOf(route)
	p.around(ctx, route)
	mine := referencesOf(route).parents
	if before := p.route(ctx, id); before != nil {
		mine = append(mine, referencesOf(before).parents...)
	}
	all := p.authorizationsIn(ctx, id.Namespace)
	follows := func(a *meshv1alpha1.MeshAuthorization) bool {
		return slices.ContainsFunc(targetsOf(a.Namespace, a.Spec.TargetRefs), func(t compile.Target) bool {
			return t == id || t.Kind == kindService && slices.Contains(mine, types.NamespacedName{Namespace: t.Namespace, Name: t.Name})
		})
	}
	if !slices.ContainsFunc(all, follows) {
		return
	}
	for _, a := range all {
		if follows(a) {
			p.guarded(ctx, a)
		}
	}
	p.snapshot.MeshAuthorizations = filter(all, func(a *meshv1alpha1.MeshAuthorization) bool { return follows(a) || setsHeaders(a) })
}

// decidesAuthorization reads what an authorization comes to, and the authorizations that set headers, which others
// cannot match then.
func (p *part) decidesAuthorization(ctx context.Context, a *meshv1alpha1.MeshAuthorization) {
	p.snapshot.MeshAuthorizations = filter(p.authorizationsIn(ctx, a.Namespace), setsHeaders)
	p.guarded(ctx, a)
	p.calledPast(ctx, a.Namespace)
}

// decidesPolicy reads what decides about a policy: those of its namespace, its targets, and, of targets that are
// routes, the Services that they apply to, with the policies there.
func (p *part) decidesPolicy(ctx context.Context, policy *meshv1alpha1.MeshPolicy) {
	p.policiesIn(ctx, policy.Namespace)
	for _, t := range targetsOf(policy.Namespace, policy.Spec.TargetRefs) {
		if t.Kind == kindService {
			p.service(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Name})
			continue
		}
		if route := p.route(ctx, t); route != nil {
			for _, name := range referencesOf(route).parents {
				p.attachedTo(ctx, name)
				p.policiesIn(ctx, name.Namespace)
			}
		}
	}
	p.calledPast(ctx, policy.Namespace)
}

// decidesMesh reads who would be refused if all ports became strict.
func (p *part) decidesMesh(ctx context.Context) {
	if p.snapshot.Mesh == nil {
		return
	}
	for _, in := range p.snapshot.Mesh.Status.PlainCallers {
		p.calledPast(ctx, in.Namespace)
		p.policiesIn(ctx, in.Namespace)
	}
}

// calledPast reads the Services of a namespace that were called past the mesh: of no other is anything said when it
// becomes strict.
func (p *part) calledPast(ctx context.Context, namespace string) {
	if p.snapshot.Mesh == nil {
		return
	}
	for _, in := range p.snapshot.Mesh.Status.PlainCallers {
		if in.Namespace != namespace {
			continue
		}
		for i := range in.Top {
			service, _, _ := strings.Cut(in.Top[i].Service, ":")
			p.service(ctx, types.NamespacedName{Namespace: namespace, Name: service})
		}
	}
}

// guarded reads what an authorization is for: routes, and where routes lead from Services.
func (p *part) guarded(ctx context.Context, a *meshv1alpha1.MeshAuthorization) {
	for _, t := range targetsOf(a.Namespace, a.Spec.TargetRefs) {
		if t.Kind != kindService {
			p.route(ctx, t)
			continue
		}
		for _, route := range p.attachedTo(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Name}) {
			p.around(ctx, route)
		}
	}
}

// around reads what decides about a route: its Services, and with which routes it has to share its parents. Whether a
// GRPCRoute can send to a port also depends on the protocol that those take it for who use it.
func (p *part) around(ctx context.Context, route metav1.Object) {
	_, isGRPC := route.(*gwv1.GRPCRoute)
	of := referencesOf(route)
	for _, name := range of.parents {
		p.attachedTo(ctx, name)
	}
	for _, name := range of.backends {
		p.service(ctx, name)
		if isGRPC {
			p.usersOf(ctx, name)
		}
	}
}

// attachedTo reads a Service and returns the routes that it is a parent of. They decide together which of them apply.
func (p *part) attachedTo(ctx context.Context, name types.NamespacedName) []metav1.Object {
	routes, known := p.attached[name]
	if !known {
		p.service(ctx, name)
		routes = p.routesBy(ctx, byParent, name)
		p.attached[name] = routes
	}
	return routes
}

// usersOf reads the routes that use a Service in any way, with what decides whether they apply anywhere.
func (p *part) usersOf(ctx context.Context, name types.NamespacedName) {
	if p.used[name] {
		return
	}
	p.used[name] = true
	for _, route := range slices.Concat(p.attachedTo(ctx, name), p.routesBy(ctx, byBackend, name)) {
		for _, parent := range referencesOf(route).parents {
			p.attachedTo(ctx, parent)
		}
	}
}

// routesBy reads routes by an index.
func (p *part) routesBy(ctx context.Context, index string, service types.NamespacedName) []metav1.Object {
	var https gwv1.HTTPRouteList
	var grpcs gwv1.GRPCRouteList
	by := client.MatchingFields{index: service.String()}
	p.list(ctx, &https, by)
	p.list(ctx, &grpcs, by)
	var routes []metav1.Object
	for i := range https.Items {
		routes = append(routes, &https.Items[i])
	}
	for i := range grpcs.Items {
		routes = append(routes, &grpcs.Items[i])
	}
	for _, route := range routes {
		p.add(route)
	}
	return routes
}

// route reads a route, and returns nil if it does not exist.
func (p *part) route(ctx context.Context, t compile.Target) metav1.Object {
	if t.Kind == string(wire.RouteGRPC) {
		if route := get[gwv1.GRPCRoute](ctx, p, t.Namespace, t.Name); route != nil {
			p.add(route)
			return route
		}
	} else if route := get[gwv1.HTTPRoute](ctx, p, t.Namespace, t.Name); route != nil {
		p.add(route)
		return route
	}
	return nil
}

func (p *part) add(route metav1.Object) {
	id := targetOf(route)
	if p.routes[id] {
		return
	}
	p.routes[id] = true
	switch r := route.(type) {
	case *gwv1.HTTPRoute:
		p.snapshot.HTTPRoutes = append(p.snapshot.HTTPRoutes, r)
	case *gwv1.GRPCRoute:
		p.snapshot.GRPCRoutes = append(p.snapshot.GRPCRoutes, r)
	}
}

func (p *part) service(ctx context.Context, name types.NamespacedName) {
	if p.services[name] {
		return
	}
	p.services[name] = true
	p.namespace(ctx, name.Namespace)
	if service := get[corev1.Service](ctx, p, name.Namespace, name.Name); service != nil {
		p.snapshot.Services = append(p.snapshot.Services, service)
	}
}

func (p *part) namespace(ctx context.Context, name string) {
	if p.namespaces[name] {
		return
	}
	p.namespaces[name] = true
	if namespace := get[corev1.Namespace](ctx, p, "", name); namespace != nil {
		p.snapshot.Namespaces = append(p.snapshot.Namespaces, namespace)
	}
}

func (p *part) policiesIn(ctx context.Context, namespace string) {
	if p.policies[namespace] {
		return
	}
	p.policies[namespace] = true
	var list meshv1alpha1.MeshPolicyList
	p.list(ctx, &list, client.InNamespace(namespace))
	for i := range list.Items {
		p.snapshot.MeshPolicies = append(p.snapshot.MeshPolicies, &list.Items[i])
	}
}

func (p *part) authorizationsIn(ctx context.Context, namespace string) []*meshv1alpha1.MeshAuthorization {
	var list meshv1alpha1.MeshAuthorizationList
	p.list(ctx, &list, client.InNamespace(namespace))
	all := make([]*meshv1alpha1.MeshAuthorization, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return all
}

func (p *part) list(ctx context.Context, list client.ObjectList, which client.ListOption) {
	if p.err != nil {
		return
	}
	if err := p.reader.List(ctx, list, which); err != nil {
		p.err = fmt.Errorf("list %T: %w", list, err)
	}
}

// get reads an object, and returns nil if it does not exist.
func get[T any, P interface {
	*T
	client.Object
}](ctx context.Context, p *part, namespace, name string) P {
	if p.err != nil {
		return nil
	}
	o := P(new(T))
	switch err := p.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, o); {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		p.err = fmt.Errorf("get %T %s/%s: %w", o, namespace, name, err)
		return nil
	}
	return o
}

// kindService is the kind of a target that is no route.
const kindService = "Service"

// targetsOf are the Services and routes that a policy refers to, without sections. What else it refers to is none.
func targetsOf(namespace string, refs []gwv1.LocalPolicyTargetReferenceWithSectionName) []compile.Target {
	var targets []compile.Target
	for i := range refs {
		switch kind := string(refs[i].Kind); kind {
		case kindService, string(wire.RouteHTTP), string(wire.RouteGRPC):
			targets = append(targets, compile.Target{Kind: kind, Namespace: namespace, Name: string(refs[i].Name)})
		}
	}
	return targets
}

func targetOf(route metav1.Object) compile.Target {
	t := compile.Target{Kind: string(wire.RouteHTTP), Namespace: route.GetNamespace(), Name: route.GetName()}
	if _, isGRPC := route.(*gwv1.GRPCRoute); isGRPC {
		t.Kind = string(wire.RouteGRPC)
	}
	return t
}

// setsHeaders tells that an authorization replaces headers by claims of tokens.
func setsHeaders(a *meshv1alpha1.MeshAuthorization) bool {
	return a.Spec.JWT != nil && slices.ContainsFunc(a.Spec.JWT.Issuers, func(i meshv1alpha1.JWTIssuer) bool { return len(i.ClaimsToHeaders) > 0 })
}

// set holds names of Services.
type set map[types.NamespacedName]bool

// await returns when a cache has everything that parts are read from.
func await(ctx context.Context, c cache.Cache) error {
	for _, kind := range []client.Object{
		&corev1.Namespace{}, &corev1.Service{}, &gwv1.HTTPRoute{}, &gwv1.GRPCRoute{},
		&meshv1alpha1.Mesh{}, &meshv1alpha1.MeshPolicy{}, &meshv1alpha1.MeshAuthorization{},
	} {
		if _, err := c.GetInformer(ctx, kind); err != nil {
			return fmt.Errorf("read all of %T: %w", kind, err)
		}
	}
	return nil
}
