package compile

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// What a Mesh says when it does not exist or its API server has not filled in the defaults.
const (
	defaultTrustDomain      = "cluster.local"
	defaultMaxConnectionAge = 10 * time.Minute
)

// Compile maps a snapshot to what it means. An object appears in it once. The result shares nothing
// mutable with the snapshot, but parts of it share memory with each other: whoever receives it must not
// change it.
func Compile(s Snapshot) Result {
	c := newCompiler(s, len(s.EndpointSlices) > 0)
	c.take(changesOf(s)).finish()
	return c.Result()
}

func compareRefs(a, b wire.Ref) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Key, b.Key))
}

// world is what of a snapshot decides about single routes and Services, indexed by name.
type world struct {
	enrolment enrolment
	starting  map[string]bool
	services  map[types.NamespacedName]*corev1.Service
	policies  policies
}

func newWorld(settings Snapshot) *world {
	w := &world{
		enrolment: enrol(settings),
		starting:  settings.Starting,
		services:  make(map[types.NamespacedName]*corev1.Service),
		policies:  policies{inForce: make(map[Target]level), targetsIn: make(map[string][]Target)},
	}
	w.policies.mesh, w.policies.meshFaults = meshDefaults(settings.Mesh)
	return w
}

// sameFor tells that other settings say the same of what concerns everything.
func (w *world) sameFor(other Snapshot) bool {
	now := newWorld(other)
	return w.enrolment.equal(now.enrolment) && maps.Equal(w.starting, now.starting) &&
		reflect.DeepEqual(w.policies.mesh, now.policies.mesh) && slices.Equal(w.policies.meshFaults, now.policies.meshFaults)
}

// meshResource returns what concerns everybody, and what of the Mesh's spec is at fault and left out.
func meshResource(s Snapshot) (wire.Resource, []fault) {
	mesh := s.Mesh
	content := wire.Mesh{
		TrustDomain:      defaultTrustDomain,
		TrustBundle:      s.TrustBundle,
		Removed:          removed(s),
		MaxConnectionAge: wire.Duration(defaultMaxConnectionAge),
	}
	var faults []fault
	if mesh != nil {
		content.Traces, faults = collector(&mesh.Spec.Telemetry.Tracing)
		content.TrustDomain = cmp.Or(mesh.Spec.TrustDomain, defaultTrustDomain)
		if age, ok := parseDuration(mesh.Spec.Proxy.MaxConnectionAge); ok && age > 0 {
			content.MaxConnectionAge = wire.Duration(age)
		}
	}
	origin := wire.Origin{
		APIVersion: meshv1alpha1.GroupVersion.String(),
		Kind:       "Mesh",
		Name:       meshv1alpha1.MeshName,
	}
	return wire.New("mesh", wire.ScopeMesh, origin, &content), faults
}
