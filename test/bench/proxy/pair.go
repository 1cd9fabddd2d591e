package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

// side is where a proxy stands in a pair: near the client or near the backend. Between the two is mutual TLS.
type side string

const (
	near side = "near"
	far  side = "far"
)

// The files that both proxies of a pair have in a directory: whom they trust, and the certificate of each with its key. Our
// own read the last.
const (
	rootsFile      = "roots.pem"
	identitiesFile = "identities.json"
)

func certificateFile(s side) string { return string(s) + ".pem" }

// namespaces are those of our own proxies.
var namespaces = map[side]string{near: "shop", far: "stock"}

// identities are what our own proxies are told of themselves.
type identities struct {
	Mesh   *wire.Mesh
	Proxy  map[side]*wire.Certificate
	Client *wire.Certificate
}

// newIdentities writes what the proxies of pairs need to a directory.
func newIdentities(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return err
	}
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	issue := func(namespace, account string) (*wire.Certificate, error) {
		id := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + namespace + "/sa/" + account}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{id}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		}
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, own.Public(), key)
		if err != nil {
			return nil, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(own)
		return &wire.Certificate{
			Namespace: namespace, ServiceAccount: account, SPIFFEID: id.String(), NotAfter: leaf.NotAfter,
			Chain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			Key:   string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		}, err
	}
	all := identities{Mesh: &wire.Mesh{TrustDomain: "cluster.local", TrustBundle: string(roots)}, Proxy: map[side]*wire.Certificate{}}
	if all.Client, err = issue(namespaces[near], "client"); err != nil {
		return err
	}
	files := map[string][]byte{rootsFile: roots}
	for s, namespace := range namespaces {
		c, err := issue(namespace, "weft-proxy")
		if err != nil {
			return err
		}
		c.Proxy = true
		all.Proxy[s], files[certificateFile(s)] = c, []byte(c.Chain+c.Key)
	}
	if files[identitiesFile], err = json.Marshal(all); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// servePaired is one of a pair of our own proxies.
func servePaired(ctx context.Context, options engine.Options, w wiring, protocol wire.Protocol) error {
	text, err := os.ReadFile(filepath.Join(w.pair, identitiesFile))
	if err != nil {
		return err
	}
	var own identities
	if err := json.Unmarshal(text, &own); err != nil {
		return err
	}
	remote := namespaces[far]
	key := wire.ServicePortKey(remote, "web", 80)
	var origin wire.Origin
	scope := wire.ScopeNamespace(namespaces[w.side])
	options.Namespace = namespaces[w.side]
	proxy := own.Proxy[w.side]
	resources := []wire.Resource{
		wire.New("mesh", scope, origin, own.Mesh),
		wire.New(proxy.Namespace+"/"+proxy.ServiceAccount, scope, origin, proxy),
		wire.New(key, scope, origin, &wire.Backend{Namespace: remote, Service: "web", Port: 80, Protocol: protocol, Meshed: true}),
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	if w.side == far {
		options.Source = nil
		resources = append(resources, wire.New(key, scope, origin, &wire.Endpoints{Endpoints: []wire.Endpoint{{
			Address: netip.AddrPortFrom(loopback, uint16(w.backend)), //nolint:gosec // it is a port
		}}}))
	} else {
		// The other proxy of the pair is not at the port that it has in a cluster.
		options.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(loopback.String(), strconv.Itoa(w.backend)))
		}
		resources = append(resources,
			wire.New(own.Client.Namespace+"/"+own.Client.ServiceAccount, scope, origin, own.Client),
			wire.New(remote, scope, origin, &wire.Proxies{Proxies: []wire.Proxy{{Pod: "far", Addresses: []netip.Addr{loopback}}}}),
			wire.New(key, scope, origin, &wire.Destination{Namespace: remote, Service: "web", Port: 80, Protocol: protocol}),
		)
	}
	e := engine.New(options)
	if rejected := e.Apply(wire.Delta{Seq: 1, Upserted: resources}); len(rejected) > 0 {
		return fmt.Errorf("rejected: %v", rejected)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(loopback.String(), strconv.Itoa(w.port)))
	if err != nil {
		return err
	}
	if w.side == far {
		return e.ServeHop(l)
	}
	return e.ServeCaptured(engine.Direct(l, key))
}

// startPair starts two proxies, the far one first.
func startPair(ctx context.Context, name, program string, w wiring) (*subject, error) {
	w.side = far
	behind, err := start(ctx, name, program, w)
	if err != nil {
		return nil, err
	}
	w.side, w.backend = near, behind.port
	one, err := start(ctx, name, program, w)
	if err != nil {
		behind.stop()
		return nil, err
	}
	one.behind = behind
	return one, nil
}
