package engine

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// village is pods with proxies of their own and the proxies of namespaces, all of one mesh.
type village struct {
	t  *testing.T
	ca *identitytest.CA
	// addresses are where what the configuration names is on loopback.
	addresses map[string]string
}

func newVillage(t *testing.T) *village {
	return &village{t: t, ca: identitytest.NewCA(t, "cluster.local"), addresses: map[string]string{}}
}

func (p *village) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, known := p.addresses[address]
	if !known {
		return nil, fmt.Errorf("nobody is at %s", address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to)
}

// beside starts the proxy beside a pod at an address whose port 8080 serves a Backend; app may be nil.
func (p *village) beside(namespace, account, address, backend string, app http.HandlerFunc) *proxy {
	p.t.Helper()
	sidecar := newProxy(p.t, func(o *Options) {
		o.Namespace, o.ServiceAccount, o.Source, o.Dial = namespace, account, nil, p.dial
	})
	serves := func(leaf *x509.Certificate) { leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }
	pod := &wire.Sidecar{Namespace: namespace, Pod: account + "-0", ServiceAccount: account, Addresses: []netip.Addr{netip.MustParseAddr(address), netip.MustParseAddr("127.0.0.1")}}
	if app != nil {
		pod.Ports = []wire.SidecarPort{{Backend: backend, Port: 8080}}
		p.addresses[address+":8080"] = server(p.t, app)
	}
	sidecar.apply(
		resource("mesh", p.ca.Mesh()),
		resource(namespace+"/"+account, p.ca.Issue(p.t, namespace, account, serves)),
		resource(namespace+"/"+account+"-0", pod),
	)
	p.hops(sidecar, address)
	return sidecar
}

// hops has a proxy accept the hop at an address.
func (p *village) hops(of *proxy, address string) {
	l := listenLoopback(p.t)
	of.serve(func() error { return of.engine.ServeHop(l) })
	p.addresses[netip.AddrPortFrom(netip.MustParseAddr(address), wire.PortHop).String()] = l.Addr().String()
}

// shared starts the proxies of a namespace at an address.
func (p *village) shared(of, address string) *proxy {
	p.t.Helper()
	shared := newProxy(p.t, func(o *Options) {
		o.Namespace, o.Source, o.Dial = of, &wire.Workload{Namespace: of, ServiceAccount: "client"}, p.dial
	})
	shared.apply(resource("mesh", p.ca.Mesh()), resource(of+"/weft-proxy", p.ca.IssueProxy(p.t, of)), resource(of+"/client", p.ca.Issue(p.t, of, "client")))
	p.hops(shared, address)
	return shared
}

// api returns the resources of Service stock/api with these endpoints.
func api(protocol wire.Protocol, endpoints ...wire.Endpoint) []wire.Resource {
	return []wire.Resource{
		resource(stockKey, &wire.Destination{Namespace: stock, Service: "api", Port: 80, Protocol: protocol, Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}),
		resource(stockKey, &wire.Backend{Namespace: stock, Service: "api", Port: 80, Protocol: protocol, Meshed: true, Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}),
		resource(stockKey, &wire.Endpoints{Endpoints: endpoints}),
	}
}

func spoken(address, account string) wire.Endpoint {
	return wire.Endpoint{Address: netip.MustParseAddrPort(address), ServiceAccount: account}
}

func proxiesAt(address string) *wire.Proxies {
	return &wire.Proxies{Proxies: []wire.Proxy{{Pod: "0", Addresses: []netip.Addr{netip.MustParseAddr(address)}}}}
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// allow is a policy of Service stock/api that lets one ServiceAccount in.
func allow(namespace, account string) wire.Resource {
	return authorization(wire.Authorization{Namespace: stock, Name: "api", Action: wire.AuthorizationAllow, Rules: []wire.AuthorizationRule{only(namespace, account)}})
}

// TestPodToPod is about every way between a pod with a proxy of its own and one that has the proxies of its namespace.
// The pod that is called has one in all of them, and its proxy alone decides who may call.
func TestPodToPod(t *testing.T) {
	for name, tc := range map[string]struct {
		from string
		// through tells that the endpoints are not all known to callers, so that the proxies of the namespace are between.
		through bool
		caller  [2]string
	}{
		"from a pod of another namespace":                {from: "beside", caller: [2]string{namespace, "client"}},
		"from a pod of the same namespace":               {from: "within", caller: [2]string{stock, "client"}},
		"from the proxies of another namespace":          {from: "shared", caller: [2]string{namespace, "client"}},
		"from the proxies of the same namespace":         {from: "own", caller: [2]string{stock, "client"}},
		"from a pod to a mixed Service":                  {from: "beside", through: true, caller: [2]string{namespace, "client"}},
		"from a pod to a mixed Service of its namespace": {from: "within", through: true, caller: [2]string{stock, "client"}},
		"from proxies of a namespace to a mixed Service": {from: "shared", through: true, caller: [2]string{namespace, "client"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, protocol := range []wire.Protocol{wire.ProtocolHTTP, wire.ProtocolTCP} {
				p := newVillage(t)
				callee := p.beside(stock, "api", "192.0.2.9", stockKey, says("api"))
				callee.apply(api(protocol)...)
				callee.apply(allow(tc.caller[0], tc.caller[1]))
				endpoint := spoken("192.0.2.9:8080", "api")
				between := p.shared(stock, "192.0.2.2")
				between.apply(api(protocol, endpoint)...)
				var from *proxy
				switch tc.from {
				case "beside":
					from = p.beside(namespace, "client", "192.0.2.8", "", nil)
				case "within":
					from = p.beside(stock, "client", "192.0.2.8", "", nil)
				case "shared":
					from = p.shared(namespace, "192.0.2.1")
				case "own":
					from = between
				}
				if from != between {
					known := api(protocol, endpoint)
					if tc.through {
						known = known[:2]
					}
					from.apply(append(known, resource(stock, proxiesAt("192.0.2.2")))...)
				}
				address := from.listen(stockKey)
				if got := get(t, address, "/").String(); got != `200  "api"` {
					t.Errorf("%s: %s", protocol, got)
				}
				callee.apply(allow("elsewhere", "client"))
				if protocol == wire.ProtocolTCP {
					if res, err := client(t).Get("http://" + address); err == nil {
						_ = res.Body.Close()
						t.Errorf("a connection got %s although its caller is not allowed any more", res.Status)
					}
					continue
				}
				if got := get(t, address, "/"); got.status != http.StatusForbidden {
					t.Errorf("%s: %s although the caller is not allowed any more", protocol, got)
				}
			}
		})
	}
}

// TestPodHasItsPartOfALimit: the pods of a Service share its limit, where all have proxies of their own and so each of these
// knows how many there are; otherwise it is shared by as many as their namespace has proxies.
func TestPodHasItsPartOfALimit(t *testing.T) {
	for name, tc := range map[string]struct {
		pods int
		want []string
	}{
		"three pods": {pods: 3, want: []string{passes, passes, refused}},
		"one pod":    {pods: 1, want: []string{passes, passes, passes, passes, passes, passes, refused}},
		"some pods":  {want: []string{passes, passes, passes, refused}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newVillage(t)
			callee := p.beside(stock, "api", "192.0.2.9", stockKey, says("api"))
			var pods []wire.Endpoint
			for i := range tc.pods {
				pods = append(pods, spoken(fmt.Sprintf("192.0.2.%d:8080", 9+i), "api"))
			}
			if tc.pods > 1 { // which answers until it has ended, and gets nothing new
				pods = append(pods, wire.Endpoint{Address: netip.MustParseAddrPort("192.0.2.99:8080"), ServiceAccount: "api", Terminating: true})
			}
			known := api(wire.ProtocolHTTP, pods...)
			known[1].Backend.Policy = limits(hourly(6))
			two := proxiesAt("192.0.2.2")
			two.Proxies = append(two.Proxies, proxiesAt("192.0.2.3").Proxies...)
			callee.apply(append(known, resource(stock, two))...)
			from := p.beside(namespace, "client", "192.0.2.8", "", nil)
			from.apply(api(wire.ProtocolHTTP, spoken("192.0.2.9:8080", "api"))...)
			address := from.listen(stockKey)
			got := outcomes(t, len(tc.want), func(int) *http.Request { return request(t, http.MethodGet, address, "/", nil) })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPodServesItsOwnPodAlone asks a pod's proxy for what another pod serves.
func TestPodServesItsOwnPodAlone(t *testing.T) {
	p := newVillage(t)
	other := p.beside(stock, "other", "192.0.2.9", stockKey, nil)
	other.apply(api(wire.ProtocolHTTP, spoken("192.0.2.7:8080", "api"))...)
	p.beside(stock, "api", "192.0.2.7", stockKey, says("api")).apply(api(wire.ProtocolHTTP)...)
	from := p.shared(namespace, "192.0.2.1")
	from.apply(api(wire.ProtocolHTTP, spoken("192.0.2.9:8080", "other"))...)
	if got := get(t, from.listen(stockKey), "/"); got.status == http.StatusOK {
		t.Errorf("the proxy of a pod that does not serve the Backend answered %s", got)
	}
}

// TestPodIsWhoItSaysItIs sends to a pod's address at which there is the proxy of another ServiceAccount.
func TestPodIsWhoItSaysItIs(t *testing.T) {
	p := newVillage(t)
	p.beside(stock, "thief", "192.0.2.9", stockKey, says("thief")).apply(api(wire.ProtocolHTTP)...)
	from := p.shared(namespace, "192.0.2.1")
	from.apply(api(wire.ProtocolHTTP, spoken("192.0.2.9:8080", "api"))...)
	from.apply(resource(stock, proxiesAt("192.0.2.9")))
	if got := get(t, from.listen(stockKey), "/"); got.status != http.StatusServiceUnavailable && got.status != http.StatusBadGateway {
		t.Errorf("a pod of another ServiceAccount answered %s", got)
	}
	// Nor can it be the proxy of its namespace.
	from.apply(resource(stockKey, &wire.Endpoints{}))
	if got := get(t, from.listen(stockKey), "/"); got.status != http.StatusServiceUnavailable && got.status != http.StatusBadGateway {
		t.Errorf("a pod in the place of the proxies of its namespace answered %s", got)
	}
}

// TestOnlyOwnProxiesVouch has somebody else name a caller that is not its own.
func TestOnlyOwnProxiesVouch(t *testing.T) {
	p := newVillage(t)
	callee := p.beside(stock, "api", "192.0.2.9", stockKey, says("api"))
	callee.apply(api(wire.ProtocolHTTP)...)
	callee.apply(allow("bank", "till"))
	for name, tc := range map[string]struct {
		namespace, account string
		want               bool
	}{
		"the proxies of the namespace":     {stock, "weft-proxy", true},
		"a pod of the namespace":           {stock, "client", false},
		"the proxies of another namespace": {namespace, "weft-proxy", false},
	} {
		t.Run(name, func(t *testing.T) {
			store := identity.NewStore(identity.Options{Namespace: tc.namespace})
			certificate := p.ca.Issue(t, tc.namespace, tc.account)
			if failed := store.Update(p.ca.Mesh(), map[string]*wire.Certificate{tc.namespace + "/" + tc.account: certificate}); len(failed) > 0 {
				t.Fatalf("certificate: %v", failed)
			}
			set := upstream.NewSet(upstream.Options{Namespace: tc.namespace, Sidecar: true, Identity: store, DialContext: p.dial})
			t.Cleanup(set.Close)
			set.Update(upstream.Resources{
				Backends:  map[string]*wire.Backend{stockKey: {Namespace: stock, Service: "api", Port: 80, Protocol: wire.ProtocolHTTP, Meshed: true}},
				Endpoints: map[string]*wire.Endpoints{stockKey: {Endpoints: []wire.Endpoint{spoken("192.0.2.9:8080", "api")}}},
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			to, err := set.Choose(ctx, stockKey, upstream.Wish{})
			if err != nil {
				t.Fatalf("choose: %v", err)
			}
			call := upstream.Call{Source: upstream.Source{ServiceAccount: tc.account}, Caller: "spiffe://cluster.local/ns/bank/sa/till"}
			res, err := set.RoundTrip(ctx, to, call, request(t, http.MethodGet, "api", "/", nil))
			if err != nil {
				t.Fatalf("request: %v", err)
			}
			defer func() { _ = res.Body.Close() }()
			if got := res.StatusCode == http.StatusOK; got != tc.want {
				t.Errorf("answered %s", res.Status)
			}
			conn, err := set.Dial(ctx, to, call)
			if got := err == nil; got != tc.want {
				t.Errorf("a connection: %v", err)
			}
			if err == nil {
				_ = conn.Close()
			}
		})
	}
}

// TestPodIsNotReadyBeforeItIsKnown has the application wait for its identity and its own addresses.
func TestPodIsNotReadyBeforeItIsKnown(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	p := newProxy(t, func(o *Options) { o.ServiceAccount, o.Source = "client", nil })
	pod := wire.Sidecar{Namespace: namespace, Pod: "a", ServiceAccount: "client"}
	p.apply(resource("mesh", ca.Mesh()), resource("shop/client", ca.Issue(t, namespace, "client", func(leaf *x509.Certificate) {
		leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	})), resource("shop/a", &pod))
	if p.engine.Ready() {
		t.Error("ready without an address")
	}
	known := pod
	known.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.8")}
	p.apply(resource("shop/a", &known))
	if !p.engine.Ready() {
		t.Error("not ready")
	}
	strange := pod
	strange.ServiceAccount = "till"
	if rejected := p.delta(wire.Delta{Upserted: []wire.Resource{resource("shop/a", &strange)}}); len(rejected) != 1 {
		t.Errorf("a pod of another ServiceAccount: %v", rejected)
	}
}

// TestPodAdmitsItsOwn tells the pod's own connections from others that come to the listener.
func TestPodAdmitsItsOwn(t *testing.T) {
	pod := newOwnPod(&wire.Sidecar{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("fd00::8")}})
	for from, want := range map[string]bool{"192.0.2.8": true, "fd00::8": true, "127.0.0.1": true, "::1": true, "192.0.2.9": false, "fd00::9": false} {
		if got := pod.sends(netip.MustParseAddr(from)); got != want {
			t.Errorf("from %s: %v", from, got)
		}
	}
}

// TestDestinationsByAddress follows cluster IPs from one destination to another.
func TestDestinationsByAddress(t *testing.T) {
	p := newProxy(t, func(o *Options) { o.ServiceAccount, o.Source = "client", nil })
	at := func(address string) string {
		if d := p.engine.config.Load().find(Target{Address: netip.MustParseAddrPort(address)}); d != nil {
			return d.key
		}
		return ""
	}
	give := func(service string, addresses ...string) {
		d := &wire.Destination{Namespace: namespace, Service: service, Port: 80, Protocol: wire.ProtocolTCP}
		for _, a := range addresses {
			d.Addresses = append(d.Addresses, netip.MustParseAddr(a))
		}
		p.apply(resource(key(service), d))
	}
	give("a", "10.96.0.1", "fd00::1")
	give("b", "10.96.0.2")
	if at("10.96.0.1:80") != key("a") || at("[fd00::1]:80") != key("a") || at("10.96.0.2:80") != key("b") || at("10.96.0.1:81") != "" {
		t.Error("destinations are not found by their addresses")
	}
	give("b", "10.96.0.1")
	give("a", "10.96.0.3")
	if at("10.96.0.1:80") != key("b") || at("10.96.0.3:80") != key("a") || at("10.96.0.2:80") != "" || at("[fd00::1]:80") != "" {
		t.Error("destinations are not found by the addresses that they have now")
	}
}

// TestSidecarOfAnEarlierRelease has an operator of a later one send what this proxy does not know: fields that pass unseen
// and a kind that it leaves out, while the rest comes into force.
func TestSidecarOfAnEarlierRelease(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	p := newProxy(t, func(o *Options) { o.ServiceAccount, o.Source = "client", nil })
	p.apply(resource("mesh", ca.Mesh()), resource("shop/client", ca.Issue(t, namespace, "client", func(leaf *x509.Certificate) {
		leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	})))
	const later = `{"upserted": [
		{"kind": "Sidecar", "key": "shop/a", "scope": "workload/shop/a", "version": "1", "future": 1, "sidecar":
			{"namespace": "shop", "pod": "a", "uid": "a", "serviceAccount": "client", "addresses": ["192.0.2.8"], "future": {"a": 1}, "ports": [{"backend": "shop/web:80", "port": 8080, "future": true}]}},
		{"kind": "Future", "key": "shop/a", "scope": "mesh", "version": "1", "future": {}}
	]}`
	var delta wire.Delta
	if err := json.Unmarshal([]byte(later), &delta); err != nil {
		t.Fatal(err)
	}
	rejected := p.delta(delta)
	if len(rejected) != 1 || rejected[0].Kind != "Future" {
		t.Errorf("rejected: %v", rejected)
	}
	if own := p.engine.config.Load().pod; !p.engine.Ready() || own.endpoints()["shop/web:80"] != netip.MustParseAddrPort("192.0.2.8:8080") {
		t.Errorf("ready: %v, the pod: %+v", p.engine.Ready(), own)
	}
}
