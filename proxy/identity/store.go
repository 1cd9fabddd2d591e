// Package identity owns who a proxy is and who its peers are: the certificates of its namespace's
// ServiceAccounts, the TLS configurations of the hop, SPIFFE IDs, and the table that joins a pod's address
// with its ServiceAccount.
//
// It must not decide what a peer may do; that is authorization. It never reads or writes files and opens
// no connection.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/wire"
)

// ErrNoCertificate tells that there is no usable certificate for a ServiceAccount, or none for the proxy
// itself.
var ErrNoCertificate = errors.New("no certificate")

// Options configure a Store.
type Options struct {
	// Namespace whose certificates this Store holds; certificates of others are rejected.
	Namespace string
	// ServiceAccount, if set, is that of the one pod whose proxy has this Store: its certificate is the proxy's own.
	// Otherwise the one with wire.Certificate.Proxy is.
	ServiceAccount string
	// Now is the clock that certificates are judged by. Default: time.Now.
	Now func() time.Time
}

// Store holds the certificates and the trust bundle in force. It is safe for concurrent use.
type Store struct {
	namespace, serviceAccount string
	now                       func() time.Time

	mu      sync.Mutex // serializes Update
	current atomic.Pointer[snapshot]

	watching sync.Mutex
	watched  map[*watched]struct{}
}

// snapshot is what one Update put in force.
type snapshot struct {
	trust *trust
	// credentials are keyed like wire.Certificate: "namespace/serviceaccount".
	credentials map[string]*credential
	proxy       *credential
	server      *tls.Config
	// replaced is closed once there is a later one.
	replaced chan struct{}
}

// trust is a parsed wire.Mesh. Its pointer is its identity: equal content keeps the pointer.
type trust struct {
	domain string
	bundle string
	roots  *x509.CertPool
}

// credential is a parsed wire.Certificate together with the trust it is used under.
type credential struct {
	id    PeerID
	trust *trust
	// chain and key are the PEM it was parsed from, to recognise an unchanged resource.
	chain, key  string
	isProxy     bool
	certificate tls.Certificate
	// clients holds the *tls.Config for each PeerID dialled so far.
	clients sync.Map
}

// NewStore returns a Store that has nothing: every handshake fails until the first Update.
func NewStore(options Options) *Store {
	s := &Store{namespace: options.Namespace, serviceAccount: options.ServiceAccount, now: options.Now, watched: map[*watched]struct{}{}}
	if s.now == nil {
		s.now = time.Now
	}
	s.current.Store(&snapshot{replaced: make(chan struct{})})
	return s
}

// Update makes mesh and certificates (by key, "namespace/serviceaccount") the complete view with one
// atomic swap. What cannot be used is returned with the reason and keeps its previous content, if that is
// still usable. A nil mesh keeps the previous one. New connections use the new view, and of the established
// ones those end whose peers it does not trust any more (Watch).
func (s *Store) Update(mesh *wire.Mesh, certificates map[string]*wire.Certificate) map[wire.Ref]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	rejected := map[wire.Ref]error{}

	next := &snapshot{
		trust: old.trust, credentials: make(map[string]*credential, len(certificates)), replaced: make(chan struct{}),
	}
	if mesh != nil {
		if t, err := newTrust(mesh, old.trust); err != nil {
			rejected[wire.Ref{Kind: wire.KindMesh, Key: "mesh"}] = err
		} else {
			next.trust = t
		}
	}
	for _, key := range slices.Sorted(maps.Keys(certificates)) {
		c, err := s.credential(key, certificates[key], next.trust, old.credentials[key])
		if err == nil && c.isProxy && next.proxy != nil {
			err = fmt.Errorf("%s already is the certificate of the proxy", next.proxy.id)
		}
		if err != nil {
			rejected[wire.Ref{Kind: wire.KindCertificate, Key: key}] = err
			if c = s.retained(old.credentials[key], next); c == nil {
				continue
			}
		}
		next.credentials[key] = c
		if c.isProxy {
			next.proxy = c
		}
	}
	if next.proxy != nil {
		next.server = s.newServerConfig(next.proxy)
	}
	s.current.Store(next)
	close(old.replaced)
	if old.trust != nil && next.trust != old.trust {
		s.endUntrusted(next.trust)
	}
	return rejected
}

// Await waits, at most for the given time and while ctx lasts, until there is a valid certificate for a
// ServiceAccount: a pod's first request may be quicker than the first certificate of its ServiceAccount.
// The error wraps ErrNoCertificate.
func (s *Store) Await(ctx context.Context, serviceAccount string, atMost time.Duration) error {
	key := s.namespace + "/" + serviceAccount
	now := s.current.Load()
	if c := now.credentials[key]; c != nil && s.unexpired(c) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		select {
		case <-now.replaced:
		case <-ctx.Done():
			return fmt.Errorf("%w for service account %s: %w", ErrNoCertificate, key, context.Cause(ctx))
		}
		now = s.current.Load()
		if c := now.credentials[key]; c != nil && s.unexpired(c) {
			return nil
		}
	}
}

// Ready tells whether there is a trust bundle and a valid certificate of the proxy itself, so that both
// sides of the hop can work.
func (s *Store) Ready() bool {
	proxy := s.current.Load().proxy
	return proxy != nil && s.unexpired(proxy)
}

func (s *Store) unexpired(c *credential) bool { return s.now().Before(c.certificate.Leaf.NotAfter) }

// newTrust parses a Mesh, or returns previous if it says the same.
func newTrust(mesh *wire.Mesh, previous *trust) (*trust, error) {
	if previous != nil && previous.domain == mesh.TrustDomain && previous.bundle == mesh.TrustBundle {
		return previous, nil
	}
	if !validTrustDomain(mesh.TrustDomain) {
		return nil, fmt.Errorf("trust domain %q is not valid", mesh.TrustDomain)
	}
	roots, err := wire.ParseCertificates(mesh.TrustBundle)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	return &trust{domain: mesh.TrustDomain, bundle: mesh.TrustBundle, roots: pool(roots)}, nil
}

// credential parses and checks a certificate; an unchanged one is returned as it was, so that its
// configurations keep their pointers.
func (s *Store) credential(key string, c *wire.Certificate, t *trust, previous *credential) (*credential, error) {
	if t == nil {
		return nil, errors.New("there is no trust bundle to check it with")
	}
	isProxy := c.Proxy
	if s.serviceAccount != "" {
		isProxy = c.ServiceAccount == s.serviceAccount
	}
	if previous != nil && previous.trust == t && previous.chain == c.Chain && previous.key == c.Key &&
		previous.isProxy == isProxy && previous.id.String() == c.SPIFFEID && s.unexpired(previous) {
		return previous, nil
	}
	id, err := ParseID(c.SPIFFEID)
	if err != nil {
		return nil, err
	}
	claimed := PeerID{TrustDomain: t.domain, Namespace: s.namespace, ServiceAccount: c.ServiceAccount}
	if id != claimed || c.Namespace != s.namespace || key != c.Namespace+"/"+c.ServiceAccount {
		return nil, fmt.Errorf("SPIFFE ID %s is not that of %s in trust domain %s of the proxies of namespace %s",
			id, key, t.domain, s.namespace)
	}
	pair, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("chain and key: %w", err)
	}
	actual, err := CertificateID(pair.Leaf)
	if err != nil {
		return nil, err
	}
	if actual != id {
		return nil, fmt.Errorf("certificate is for %s, not for %s", actual, id)
	}
	parsed := &credential{id: id, trust: t, chain: c.Chain, key: c.Key, isProxy: isProxy, certificate: pair}
	return parsed, s.valid(parsed)
}

// retained returns what stays in force for a resource that was rejected: its previous content, if that is
// valid under the trust of next.
func (s *Store) retained(previous *credential, next *snapshot) *credential {
	if previous == nil || next.trust == nil || previous.isProxy && next.proxy != nil {
		return nil
	}
	if previous.trust == next.trust && s.unexpired(previous) {
		return previous
	}
	kept := &credential{
		id: previous.id, trust: next.trust, chain: previous.chain, key: previous.key,
		isProxy: previous.isProxy, certificate: previous.certificate,
	}
	if kept.id.TrustDomain != next.trust.domain || s.valid(kept) != nil {
		return nil
	}
	return kept
}

// valid tells why peers that trust the same bundle would refuse c now.
func (s *Store) valid(c *credential) error {
	chain := []*x509.Certificate{c.certificate.Leaf}
	for _, der := range c.certificate.Certificate[1:] {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("intermediate: %w", err)
		}
		chain = append(chain, certificate)
	}
	usage := x509.ExtKeyUsageClientAuth
	if c.isProxy {
		usage = x509.ExtKeyUsageServerAuth
	}
	return c.trust.verify(chain, usage, s.now())
}

// Ends tells when the certificates in force end, by ServiceAccount.
func (s *Store) Ends() map[string]time.Time {
	ends := map[string]time.Time{}
	for _, c := range s.current.Load().credentials {
		ends[c.id.ServiceAccount] = c.certificate.Leaf.NotAfter
	}
	return ends
}
