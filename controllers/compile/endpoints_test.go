package compile

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
)

// slice builds an EndpointSlice of Service demo/echo.
func slice(ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "demo", Name: "echo-x", Labels: map[string]string{discoveryv1.LabelServiceName: "echo"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       ports,
		Endpoints:   endpoints,
	}
}

func targets(name string, port int32) []discoveryv1.EndpointPort {
	return []discoveryv1.EndpointPort{{Name: &name, Port: &port}}
}

func listed(address string, conditions discoveryv1.EndpointConditions) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: conditions}
}

func ofPod(name string, e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "demo", Name: name, UID: types.UID(name)}
	return e
}

func conditions(ready, serving, terminating bool) discoveryv1.EndpointConditions {
	return discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
}

func endpoint(address string) wire.Endpoint {
	return wire.Endpoint{Address: netip.MustParseAddrPort(address)}
}

func TestEndpoints(t *testing.T) {
	ready := conditions(true, true, false)
	of := func(service string, s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		s.Labels[discoveryv1.LabelServiceName] = service
		return s
	}
	typed := func(kind discoveryv1.AddressType, s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		s.AddressType = kind
		return s
	}
	udp := targets("http", 8080)
	udp[0].Protocol = new(corev1.ProtocolUDP)
	located := listed("10.0.0.1", ready)
	located.Zone, located.NodeName = new("zone-a"), new("node-1")

	cases := map[string]struct {
		slices   []*discoveryv1.EndpointSlice
		families []corev1.IPFamily
		want     []wire.Endpoint
	}{
		"no slices": {},
		"target ports are found under the name of the Service port": {
			slices: []*discoveryv1.EndpointSlice{
				slice(targets("http", 8080), listed("10.0.0.1", ready)),
				slice(targets("metrics", 9090), listed("10.0.0.1", ready)),
			},
			want: []wire.Endpoint{endpoint("10.0.0.1:8080")},
		},
		"a named target port may differ between pods": {
			slices: []*discoveryv1.EndpointSlice{
				slice(targets("http", 8080), listed("10.0.0.1", ready)),
				slice(targets("http", 9080), listed("10.0.0.2", ready)),
			},
			want: []wire.Endpoint{endpoint("10.0.0.1:8080"), endpoint("10.0.0.2:9080")},
		},
		"both families, in the order of addresses": {
			slices: []*discoveryv1.EndpointSlice{
				typed(discoveryv1.AddressTypeIPv6, slice(targets("http", 8080), listed("fd00::1", ready))),
				slice(targets("http", 8080), listed("10.0.0.2", ready), listed("10.0.0.1", ready)),
			},
			want: []wire.Endpoint{endpoint("10.0.0.1:8080"), endpoint("10.0.0.2:8080"), endpoint("[fd00::1]:8080")},
		},
		"a pod of both families is one endpoint": {
			slices: []*discoveryv1.EndpointSlice{
				slice(targets("http", 8080), ofPod("web-1", listed("10.0.0.1", ready)), ofPod("web-2", listed("10.0.0.2", ready))),
				typed(discoveryv1.AddressTypeIPv6, slice(targets("http", 8080), ofPod("web-1", listed("fd00::1", ready)), ofPod("web-3", listed("fd00::3", ready)))),
			},
			want: []wire.Endpoint{endpoint("10.0.0.1:8080"), endpoint("10.0.0.2:8080"), endpoint("[fd00::3]:8080")},
		},
		"a pod of both families is one endpoint, of the Service's first": {
			families: []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol},
			slices: []*discoveryv1.EndpointSlice{
				slice(targets("http", 8080), ofPod("web-1", listed("10.0.0.1", ready))),
				typed(discoveryv1.AddressTypeIPv6, slice(targets("http", 8080), ofPod("web-1", listed("fd00::1", ready)))),
			},
			want: []wire.Endpoint{endpoint("[fd00::1]:8080")},
		},
		"zone and node": {
			slices: []*discoveryv1.EndpointSlice{slice(targets("http", 8080), located)},
			want:   []wire.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Zone: "zone-a", Node: "node-1"}},
		},
		"what is not ready is left out": {
			slices: []*discoveryv1.EndpointSlice{slice(targets("http", 8080),
				listed("10.0.0.1", conditions(false, false, false)),
				listed("10.0.0.2", conditions(false, true, false)),
				listed("10.0.0.3", conditions(false, false, true)),
			)},
		},
		"what terminates but serves is the last resort": {
			slices: []*discoveryv1.EndpointSlice{slice(targets("http", 8080), listed("10.0.0.1", conditions(false, true, true)))},
			want:   []wire.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Terminating: true}},
		},
		"a terminating endpoint that is ready was asked for by publishNotReadyAddresses": {
			slices: []*discoveryv1.EndpointSlice{slice(targets("http", 8080), listed("10.0.0.1", conditions(true, true, true)))},
			want:   []wire.Endpoint{endpoint("10.0.0.1:8080")},
		},
		"absent conditions mean ready": {
			slices: []*discoveryv1.EndpointSlice{slice(targets("http", 8080), listed("10.0.0.1", discoveryv1.EndpointConditions{}))},
			want:   []wire.Endpoint{endpoint("10.0.0.1:8080")},
		},
		"an endpoint that moves between slices counts once, as the better of the two": {
			slices: []*discoveryv1.EndpointSlice{
				slice(targets("http", 8080), listed("10.0.0.1", conditions(false, true, true))),
				slice(targets("http", 8080), listed("10.0.0.1", ready)),
			},
			want: []wire.Endpoint{endpoint("10.0.0.1:8080")},
		},
		"other Services, other protocols, names and nonsense are passed over": {
			slices: []*discoveryv1.EndpointSlice{
				of("other", slice(targets("http", 8080), listed("10.0.0.1", ready))),
				slice(udp, listed("10.0.0.2", ready)),
				typed(discoveryv1.AddressTypeFQDN, slice(targets("http", 8080), listed("example.com", ready))),
				slice(targets("http", 8080), listed("not an address", ready)),
				slice([]discoveryv1.EndpointPort{{Name: new("http")}}, listed("10.0.0.3", ready)),
			},
		},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "echo"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9090}}},
	}
	backend := wire.New("demo/echo:80", wire.ScopeMesh, serviceOrigin(namespacedName(service)),
		&wire.Backend{Namespace: "demo", Service: "echo", Port: 80, Meshed: true})
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				service.Spec.IPFamilies = tc.families
				got := Endpoints(backend, service, tc.slices)
				if diff := cmp.Diff(tc.want, got.Endpoints.Endpoints, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("endpoints (-want +got):\n%s", diff)
				}
				slices.Reverse(tc.slices)
			}
		})
	}
}

func TestEndpointsOfUnnamedPort(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "echo"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	backend := wire.New("demo/echo:80", wire.ScopeMesh, wire.Origin{}, &wire.Backend{Namespace: "demo", Service: "echo", Port: 80})
	unnamed := []discoveryv1.EndpointPort{{Port: new(int32(8080))}}
	for name, ports := range map[string][]discoveryv1.EndpointPort{"empty": targets("", 8080), "absent": unnamed} {
		t.Run(name, func(t *testing.T) {
			got := Endpoints(backend, service, []*discoveryv1.EndpointSlice{slice(ports, listed("10.0.0.1", conditions(true, true, false)))})
			want := []wire.Endpoint{endpoint("10.0.0.1:8080")}
			if diff := cmp.Diff(want, got.Endpoints.Endpoints, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

// Whoever may see a backend must not see more of its endpoints than it needs.
func TestEndpointsScope(t *testing.T) {
	cases := map[string]struct {
		scope  wire.Scope
		meshed bool
		want   wire.Scope
	}{
		"meshed: the Service's namespace":        {wire.ScopeMesh, true, wire.ScopeNamespace("demo")},
		"not meshed: everybody":                  {wire.ScopeMesh, false, wire.ScopeMesh},
		"not meshed, used by one consumer alone": {wire.ScopeNamespace("shop"), false, wire.ScopeNamespace("shop")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			backend := wire.New("demo/echo:80@shop", tc.scope, wire.Origin{}, &wire.Backend{Namespace: "demo", Service: "echo", Port: 80, Meshed: tc.meshed})
			got := Endpoints(backend, nil, nil)
			if got.Key != backend.Key || got.Scope != tc.want {
				t.Errorf("%s has scope %q, want key %q and scope %q", got.Ref, got.Scope, backend.Key, tc.want)
			}
		})
	}
}
