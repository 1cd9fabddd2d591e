package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Kind names the type of a Resource's content.
type Kind string

// The kinds of resources. Proxies receive all but KindCapture and KindInbound, node agents KindMesh and those
// two.
const (
	KindMesh        Kind = "Mesh"
	KindDestination Kind = "Destination"
	KindRoute       Kind = "Route"
	KindBackend     Kind = "Backend"
	KindEndpoints   Kind = "Endpoints"
	KindProxies     Kind = "Proxies"
	KindWorkload    Kind = "Workload"
	KindCertificate Kind = "Certificate"
	KindCapture     Kind = "Capture"
	KindInbound     Kind = "Inbound"
	// KindAuthorization is received by the proxies of its namespace alone.
	KindAuthorization Kind = "Authorization"
	// KindSidecar is received by the proxy beside the pod that it is about alone.
	KindSidecar Kind = "Sidecar"
)

// Ref identifies a resource within everything the operator publishes. Key holds every part of the
// origin's identity (namespace, name, port or rule), so that two objects can never share one.
type Ref struct {
	Kind Kind   `json:"kind"`
	Key  string `json:"key"`
}

// String returns "Kind/key".
func (r Ref) String() string { return string(r.Kind) + "/" + r.Key }

// Scope says who may receive a resource. A client receives the union of the scopes that its
// authenticated identity allows and nothing else.
type Scope string

// ScopeMesh reaches every proxy and every node agent; ScopeNodes every node agent.
const (
	ScopeMesh  Scope = "mesh"
	ScopeNodes Scope = "nodes"
)

// ScopeNamespace reaches the proxies of one namespace, and of it the proxies beside its pods what they need to be
// clients: package distribute says what that is.
func ScopeNamespace(namespace string) Scope { return Scope("namespace/" + namespace) }

// ScopeNode reaches the agent of one node.
func ScopeNode(name string) Scope { return Scope("node/" + name) }

// ScopeWorkload reaches the proxy beside one pod.
func ScopeWorkload(namespace, pod string) Scope { return Scope("workload/" + namespace + "/" + pod) }

// Origin is the API object that a resource was made from; a rejected resource becomes an Event on it.
type Origin struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
}

// Resource is one unit of configuration. Exactly one content pointer is set, the one that Kind names.
type Resource struct {
	Ref    `json:",inline"`
	Scope  Scope  `json:"scope"`
	Origin Origin `json:"origin,omitzero"`
	// Version is the hash of the content; equal versions of one Ref mean equal content.
	Version string `json:"version"`

	Mesh        *Mesh        `json:"mesh,omitempty"`
	Destination *Destination `json:"destination,omitempty"`
	Route       *Route       `json:"route,omitempty"`
	Backend     *Backend     `json:"backend,omitempty"`
	Endpoints   *Endpoints   `json:"endpoints,omitempty"`
	Proxies     *Proxies     `json:"proxies,omitempty"`
	Workload    *Workload    `json:"workload,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Capture     *Capture     `json:"capture,omitempty"`
	Inbound     *Inbound     `json:"inbound,omitempty"`

	Authorization *Authorization `json:"authorization,omitempty"`
	Sidecar       *Sidecar       `json:"sidecar,omitempty"`
}

// New wraps content into a Resource and computes its version. content must be a pointer to one of
// the content types of this package; anything else is a programmer's mistake and panics.
func New(key string, scope Scope, origin Origin, content any) Resource {
	r := Resource{Scope: scope, Origin: origin}
	r.Key = key
	r.SetContent(content)
	r.Version = hash(content)
	return r
}

// SetContent makes content, which New would take, that of a resource without any.
func (r *Resource) SetContent(content any) {
	switch c := content.(type) {
	case *Mesh:
		r.Kind, r.Mesh = KindMesh, c
	case *Destination:
		r.Kind, r.Destination = KindDestination, c
	case *Route:
		r.Kind, r.Route = KindRoute, c
	case *Backend:
		r.Kind, r.Backend = KindBackend, c
	case *Endpoints:
		r.Kind, r.Endpoints = KindEndpoints, c
	case *Proxies:
		r.Kind, r.Proxies = KindProxies, c
	case *Workload:
		r.Kind, r.Workload = KindWorkload, c
	case *Certificate:
		r.Kind, r.Certificate = KindCertificate, c
	case *Capture:
		r.Kind, r.Capture = KindCapture, c
	case *Inbound:
		r.Kind, r.Inbound = KindInbound, c
	case *Authorization:
		r.Kind, r.Authorization = KindAuthorization, c
	case *Sidecar:
		r.Kind, r.Sidecar = KindSidecar, c
	default:
		panic(fmt.Sprintf("wire: %T is no resource content", content))
	}
}

// Content returns the pointer that Kind names, or nil if there is none: what New was given.
func (r *Resource) Content() any {
	for _, c := range r.contents() {
		if c.kind == r.Kind && c.present {
			return c.content
		}
	}
	return nil
}

// Share replaces the keys and names in r, which many resources have, by what share returns of them: the same text, in
// the memory of another resource.
func (r *Resource) Share(share func(string) string) {
	for _, text := range []*string{&r.Key, (*string)(&r.Scope), &r.Origin.APIVersion, &r.Origin.Kind, &r.Origin.Namespace, &r.Origin.Name} {
		*text = share(*text)
	}
	switch {
	case r.Destination != nil:
		r.Destination.Namespace, r.Destination.Service = share(r.Destination.Namespace), share(r.Destination.Service)
	case r.Backend != nil:
		r.Backend.Namespace, r.Backend.Service = share(r.Backend.Namespace), share(r.Backend.Service)
	case r.Route != nil:
		r.Route.Namespace, r.Route.Name = share(r.Route.Namespace), share(r.Route.Name)
		for i := range r.Route.Destinations {
			r.Route.Destinations[i] = share(r.Route.Destinations[i])
		}
		for i := range r.Route.Backends {
			r.Route.Backends[i].Backend = share(r.Route.Backends[i].Backend)
		}
	}
}

// Valid reports why a received resource cannot be used: no key, an unknown kind, or content that is
// missing or of another kind. It does not look into the content.
func (r *Resource) Valid() error {
	if r.Key == "" {
		return fmt.Errorf("resource of kind %q has no key", r.Kind)
	}
	known := false
	for _, c := range r.contents() {
		switch {
		case c.kind == r.Kind && !c.present:
			return fmt.Errorf("%s has no content", r.Ref)
		case c.kind == r.Kind:
			known = true
		}
	}
	if !known {
		return fmt.Errorf("unknown kind %q", r.Kind)
	}
	for _, c := range r.contents() {
		if c.present && c.kind != r.Kind {
			return fmt.Errorf("%s carries content of kind %s", r.Ref, c.kind)
		}
	}
	return nil
}

type content struct {
	kind    Kind
	present bool
	content any
}

func (r *Resource) contents() [12]content {
	return [...]content{
		{KindMesh, r.Mesh != nil, r.Mesh},
		{KindDestination, r.Destination != nil, r.Destination},
		{KindRoute, r.Route != nil, r.Route},
		{KindBackend, r.Backend != nil, r.Backend},
		{KindEndpoints, r.Endpoints != nil, r.Endpoints},
		{KindProxies, r.Proxies != nil, r.Proxies},
		{KindWorkload, r.Workload != nil, r.Workload},
		{KindCertificate, r.Certificate != nil, r.Certificate},
		{KindCapture, r.Capture != nil, r.Capture},
		{KindInbound, r.Inbound != nil, r.Inbound},
		{KindAuthorization, r.Authorization != nil, r.Authorization},
		{KindSidecar, r.Sidecar != nil, r.Sidecar},
	}
}

// hash returns 16 hexadecimal digits of the SHA-256 of v's JSON form. The content types marshal
// deterministically: they hold slices in a defined order and no maps.
func hash(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("wire: %T does not marshal: %v", v, err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Duration is a time.Duration that travels in Go's notation ("1.5s"), so that goldens can be read.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(v)
	return nil
}
