package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"weft.dev/weft/proxy/wire"
)

// protocols of the hop listener: HTTP/2, and opaque bytes after a preface.
var protocols = []string{"h2", "weft-tcp/1"}

// ClientConfig returns the configuration for dialling a proxy of a namespace on behalf of a ServiceAccount of this one:
// the namespace's own, which run as wire.ProxyAccount, or the one beside a pod, which runs as the pod's. It accepts only
// peers of that namespace, ServiceAccount and trust domain whose certificate is good for a server. The pointer stays the same until the certificate or the trust bundle changes. It
// is shared: do not modify it. It offers no protocol (ALPN); the dialler sets that on a clone.
//
// The error wraps ErrNoCertificate if there is none for that ServiceAccount or it has expired.
func (s *Store) ClientConfig(serviceAccount, namespace, peer string) (*tls.Config, error) {
	c := s.current.Load().credentials[s.namespace+"/"+serviceAccount]
	if c == nil {
		return nil, fmt.Errorf("%w for service account %s/%s", ErrNoCertificate, s.namespace, serviceAccount)
	}
	if !s.unexpired(c) {
		return nil, fmt.Errorf("%w: that of %s expired at %s", ErrNoCertificate, c.id, c.certificate.Leaf.NotAfter)
	}
	server := PeerID{TrustDomain: c.trust.domain, Namespace: namespace, ServiceAccount: peer}
	if config, ok := c.clients.Load(server); ok {
		return config.(*tls.Config), nil
	}
	config, _ := c.clients.LoadOrStore(server, s.newClientConfig(c, server))
	return config.(*tls.Config), nil
}

// ServerConfig returns the configuration for the listener at wire.PortHop: TLS 1.3, client certificate
// required, protocols h2 and weft-tcp/1, no session tickets. It always uses the view in force when a
// handshake begins, and refuses every handshake before there is one.
func (s *Store) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if server := s.current.Load().server; server != nil {
				return server, nil
			}
			return nil, fmt.Errorf("%w of the proxy itself", ErrNoCertificate)
		},
	}
}

// newClientConfig leaves the key exchange to Go's default, which prefers X25519MLKEM768.
func (s *Store) newClientConfig(c *credential, server PeerID) *tls.Config {
	verify := func(state tls.ConnectionState) error {
		id, err := s.verifyServer(c.trust, state)
		if err != nil {
			return err
		}
		if id != server {
			return fmt.Errorf("peer is %s, not %s", id, server)
		}
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       s.now,
		// The names in a SPIFFE certificate are not host names: VerifyConnection checks the whole chain
		// and the identity instead of the built-in verification.
		InsecureSkipVerify: true,
		VerifyConnection:   verify,
		// Unlike Certificates, this presents the certificate whatever roots the server names, so that a
		// mismatch of trust is an error that says so instead of a connection without a certificate.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.certificate, nil
		},
		SessionTicketsDisabled: true,
	}
}

// newServerConfig hands out no session tickets: a resumed session would carry an identity past a change
// of the trust bundle, and connections live long enough that resumption gains little.
func (s *Store) newServerConfig(proxy *credential) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Time:                   s.now,
		Certificates:           []tls.Certificate{proxy.certificate},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              proxy.trust.roots,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol == "" {
				return errors.New("peer offered no protocol of the hop")
			}
			if err := wire.CheckKeys(state.PeerCertificates); err != nil {
				return err
			}
			_, err := proxy.trust.member(state)
			return err
		},
	}
}

// verifyServer does for a server's chain what the built-in verification would do but for the host name,
// and returns the identity in it.
func (s *Store) verifyServer(t *trust, state tls.ConnectionState) (PeerID, error) {
	if len(state.PeerCertificates) == 0 {
		return PeerID{}, fmt.Errorf("%w: peer presented no certificate", ErrInvalidID)
	}
	if err := t.verify(state.PeerCertificates, x509.ExtKeyUsageServerAuth, s.now()); err != nil {
		return PeerID{}, &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return t.member(state)
}

// member returns the identity of a peer whose chain was verified, if it is one of this trust domain.
func (t *trust) member(state tls.ConnectionState) (PeerID, error) {
	id, err := CertificateID(state.PeerCertificates[0])
	if err != nil {
		return PeerID{}, err
	}
	if id.TrustDomain != t.domain {
		return PeerID{}, fmt.Errorf("peer %s is not of trust domain %s", id, t.domain)
	}
	return id, nil
}

// verify checks that a chain, leaf first, leads to a root of t, is meant for the usage, valid now, and made
// with keys that are strong enough.
func (t *trust) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: pool(chain[1:]), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return err
	}
	return wire.CheckKeys(chain)
}
