package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

// network leads addresses that are not on loopback, of pods and proxies, to listeners that are.
type network struct {
	mu      sync.Mutex
	leadsTo map[netip.AddrPort]string
	// pods are the addresses of pods that nobody has declared, by Service port.
	pods     map[string]netip.Addr
	backends []*backend
}

func newNetwork() *network {
	return &network{leadsTo: map[netip.AddrPort]string{}, pods: map[string]netip.Addr{}}
}

// own returns an address for the nth proxy, of 198.19.0.0/16: that is for tests (RFC 2544), so no pod has it.
func (*network) own(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)})
}

// pod returns the address of the pod that stands behind a Service port of which nobody has declared any.
func (n *network) pod(key string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	address, ok := n.pods[key]
	if !ok {
		i := len(n.pods) + 1
		address = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		n.pods[key] = address
	}
	return address
}

func (n *network) lead(address netip.AddrPort, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leadsTo[address] = to
}

func (n *network) leads(address netip.AddrPort) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to, ok := n.leadsTo[address]
	return to, ok
}

// dial connects to what stands for an address. Nothing beyond loopback is ever connected to.
func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	to, ok := n.leads(target)
	if !ok && target.Addr().IsLoopback() {
		to, ok = address, true
	}
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(target), Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to)
}

// endpointSlices returns those of a snapshot with those of Options.Backends in their place, and made up ones for
// Services that have none.
func (m *Mesh) endpointSlices(s *compile.Snapshot) []*discoveryv1.EndpointSlice {
	var all []*discoveryv1.EndpointSlice
	served := map[string]bool{}
	for _, slice := range s.EndpointSlices {
		name := slice.Labels[discoveryv1.LabelServiceName]
		kept := slice.DeepCopy()
		kept.Ports = slices.DeleteFunc(kept.Ports, func(p discoveryv1.EndpointPort) bool {
			key := portKey(s, slice.Namespace, name, portName(&p))
			_, replaced := m.options.Backends[key]
			served[key] = served[key] || !replaced && len(slice.Endpoints) > 0
			return replaced
		})
		if len(kept.Ports) > 0 {
			all = append(all, kept)
		}
	}
	for _, svc := range s.Services {
		if svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		for i := range svc.Spec.Ports {
			port := &svc.Spec.Ports[i]
			key := wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port.Port))
			address, given := m.options.Backends[key]
			switch {
			case given:
			case served[key] || port.Protocol == corev1.ProtocolUDP || port.Protocol == corev1.ProtocolSCTP:
				continue
			default:
				address = netip.AddrPortFrom(m.network.pod(key), uint16(port.Port))
			}
			all = append(all, sliceOf(svc, port, address))
		}
	}
	return all
}

// portKey is the Service port of that name.
func portKey(s *compile.Snapshot, namespace, service, port string) string {
	for _, svc := range s.Services {
		if svc.Namespace != namespace || svc.Name != service {
			continue
		}
		for _, p := range svc.Spec.Ports {
			if p.Name == port {
				return wire.ServicePortKey(namespace, service, uint16(p.Port))
			}
		}
	}
	return ""
}

func portName(p *discoveryv1.EndpointPort) string {
	if p.Name == nil {
		return ""
	}
	return *p.Name
}

func sliceOf(svc *corev1.Service, port *corev1.ServicePort, address netip.AddrPort) *discoveryv1.EndpointSlice {
	number, name := int32(address.Port()), port.Name
	family := discoveryv1.AddressTypeIPv4
	if address.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: fmt.Sprintf("%s-%d", svc.Name, port.Port), Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &number}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address.Addr().String()}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: svc.Namespace, Name: svc.Name}}},
	}
}

// serve starts a built-in backend for every address beyond loopback that nothing stands for. It returns the Service
// ports that have some.
func (n *network) serve(s *compile.Snapshot, resources []wire.Resource) ([]string, error) {
	served := map[string]bool{}
	opaque := map[string]bool{}
	for i := range resources {
		if b := resources[i].Backend; b != nil && b.Protocol == wire.ProtocolTCP {
			opaque[resources[i].Key] = true
		}
	}
	for _, slice := range s.EndpointSlices {
		service := slice.Labels[discoveryv1.LabelServiceName]
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			name := service
			if e.TargetRef != nil {
				name = e.TargetRef.Name
			}
			for _, text := range e.Addresses {
				for j := range slice.Ports {
					address, err := netip.ParseAddr(text)
					if err != nil || slice.Ports[j].Port == nil || address.IsLoopback() {
						continue
					}
					key := portKey(s, slice.Namespace, service, portName(&slice.Ports[j]))
					if err := n.backend(netip.AddrPortFrom(address, uint16(*slice.Ports[j].Port)), slice.Namespace+"/"+service, name, opaque[key]); err != nil {
						return nil, err
					}
					served[key] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(served)), nil
}

func (n *network) backend(address netip.AddrPort, service, pod string, opaque bool) error {
	if _, ok := n.leads(address); ok {
		return nil
	}
	l, err := listen(0)
	if err != nil {
		return err
	}
	b := &backend{service: service, pod: pod, listener: l, conns: map[net.Conn]struct{}{}}
	if !opaque {
		b.server = &http.Server{Handler: b, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
		b.server.Protocols.SetHTTP1(true)
		b.server.Protocols.SetUnencryptedHTTP2(true)
	}
	n.lead(address, l.Addr().String())
	n.mu.Lock()
	n.backends = append(n.backends, b)
	n.mu.Unlock()
	b.serving.Go(b.serve)
	return nil
}

// close ends all backends.
func (n *network) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, b := range n.backends {
		errs = append(errs, b.close())
	}
	n.backends = nil
	return errors.Join(errs...)
}

// backend answers in place of an application: it says what it has got.
type backend struct {
	service, pod string
	listener     net.Listener
	// server is nil where bytes are opaque.
	server  *http.Server
	serving sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Answer is what a built-in backend says about a request.
type Answer struct {
	Service string   `json:"service"`
	Pod     string   `json:"pod"`
	Method  string   `json:"method"`
	Host    string   `json:"host"`
	Target  string   `json:"target"`
	Header  []string `json:"header"`
}

// ServeHTTP implements http.Handler.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		// It has no methods, and says so as gRPC does: by trailers alone.
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "12")
		w.Header().Set("Grpc-Message", "the built-in backend "+b.service+" has no methods: name one with --backend")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A client that has gone does not need it.
	_ = json.NewEncoder(w).Encode(Answer{
		Service: b.service, Pod: b.pod, Method: r.Method, Host: r.Host, Target: r.RequestURI, Header: admin.Redact(r.Header),
	})
}

func (b *backend) serve() {
	if b.server != nil {
		_ = b.server.Serve(b.listener) // it ends with the backend
		return
	}
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[c] = struct{}{}
		b.mu.Unlock()
		b.serving.Go(func() {
			// Whichever side fails first, it is over: the name, and then what the client sends.
			if _, err := fmt.Fprintln(c, b.service); err == nil {
				_, _ = io.Copy(c, c)
			}
			_ = c.Close()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.conns, c)
		})
	}
}

func (b *backend) close() error {
	var err error
	if b.server != nil {
		err = b.server.Close()
	} else {
		err = b.listener.Close()
	}
	b.mu.Lock()
	for c := range b.conns {
		_ = c.Close() // the client may have
	}
	b.mu.Unlock()
	b.serving.Wait()
	return err
}
