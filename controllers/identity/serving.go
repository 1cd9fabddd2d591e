package identity

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// ServiceNames returns the DNS names under which the pods of a cluster reach a Service, in the default
// cluster domain and without one.
func ServiceNames(service, namespace string) []string {
	name := service + "." + namespace + ".svc"
	return []string{name, name + ".cluster.local"}
}

// Serving keeps the operator's own server certificate, for tls.Config.GetCertificate. It lives in
// memory alone: clients verify the CA and the name, so every leader may have one of its own. Safe for
// concurrent use.
type Serving struct {
	// CA returns the authority that clients trust now.
	CA func() *CA
	// Names are the DNS names clients verify.
	Names []string
	// Lifetime of a certificate; it is replaced at half of it.
	Lifetime time.Duration
	// Now is the clock.
	Now func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	ca      *CA
	renewal time.Time
}

// GetCertificate returns a certificate that is valid now, and makes it when there is none yet, half of
// its life is over or the authority is another.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, ca := s.Now(), s.CA()
	if s.current != nil && s.ca == ca && now.Before(s.renewal) {
		return s.current, nil
	}
	pair, err := ca.IssueServing(s.Names, s.Lifetime, now)
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Chain), []byte(pair.Key))
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	s.current, s.ca = &certificate, ca
	s.renewal = now.Add(pair.NotAfter.Sub(now) / 2)
	return s.current, nil
}
