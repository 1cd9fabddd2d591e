// Package identity owns who a proxy is and who its peers are: the certificates of its namespace's
// ServiceAccounts, the TLS configurations of the hop, SPIFFE IDs, and the table that joins a pod's address
// with its ServiceAccount.
//
// It must not decide what a peer may do; that is authorization. It never reads or writes files and opens
// no connection.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"weft.dev/weft/proxy/wire"
)

// ErrInvalidID tells that a string or certificate carries no valid SPIFFE ID of a workload.
var ErrInvalidID = errors.New("invalid SPIFFE ID")

// ErrNoCertificate tells that there is no usable certificate for a ServiceAccount, or none for the proxy
// itself.
var ErrNoCertificate = errors.New("no certificate")

// PeerID is the identity in a workload's certificate:
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
type PeerID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// String returns the SPIFFE ID.
func (p PeerID) String() string { panic("not yet") }

// ParseID parses a SPIFFE ID of the form above and nothing else: no percent-encoding, port, user, query
// or fragment, every part a valid Kubernetes name. The error wraps ErrInvalidID.
func ParseID(id string) (PeerID, error) { panic("not yet") }

// CertificateID returns the identity of a leaf certificate (SPIFFE X.509-SVID section 2 to 4): exactly one
// URI name, not a CA. The error wraps ErrInvalidID.
func CertificateID(leaf *x509.Certificate) (PeerID, error) { panic("not yet") }

// ConnectionID returns the identity of the peer of a connection whose handshake one of this package's
// configurations has verified.
func ConnectionID(state tls.ConnectionState) (PeerID, error) { panic("not yet") }

// Options configure a Store.
type Options struct {
	// Namespace whose certificates this Store holds; certificates of others are rejected.
	Namespace string
	// Now is the clock that certificates are judged by. Default: time.Now.
	Now func() time.Time
}

// Store holds the certificates and the trust bundle in force. It is safe for concurrent use.
type Store struct{}

// NewStore returns a Store that has nothing: every handshake fails until the first Update.
func NewStore(options Options) *Store { panic("not yet") }

// Update makes mesh and certificates (by key, "namespace/serviceaccount") the complete view with one
// atomic swap. What cannot be used is returned with the reason and keeps its previous content, if that is
// still usable. A nil mesh keeps the previous one. Established connections are not touched; new ones use
// the new view.
func (s *Store) Update(mesh *wire.Mesh, certificates map[string]*wire.Certificate) map[wire.Ref]error {
	panic("not yet")
}

// Ready tells whether there is a trust bundle and a valid certificate of the proxy itself, so that both
// sides of the hop can work.
func (s *Store) Ready() bool { panic("not yet") }

// ClientConfig returns the configuration for dialling the proxies of a namespace on behalf of a
// ServiceAccount of this one. The pointer stays the same until the certificate or the trust bundle
// changes. It is shared: do not modify it. The protocols offered are empty; the dialler sets them on a
// clone.
func (s *Store) ClientConfig(serviceAccount, namespace string) (*tls.Config, error) {
	panic("not yet")
}

// ServerConfig returns the configuration for the listener at wire.PortHop: TLS 1.3, client certificate
// required, protocols h2 and weft-tcp/1, no session tickets. It always uses the view in force when a
// handshake begins.
func (s *Store) ServerConfig() *tls.Config { panic("not yet") }
