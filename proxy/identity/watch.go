package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"
)

// UntrustedGrace is how long what is under way on a connection may go on after the peer's root was dropped.
const UntrustedGrace = 30 * time.Second

// watched is an open connection.
type watched struct {
	// peer is the chain that the peer proved itself with, leaf first; at is when.
	peer []*x509.Certificate
	at   time.Time
	// drain and cut are those of Watch.
	drain, cut func()
	// timer cuts; nil while the peer is trusted.
	timer *time.Timer
}

// ErrUntrusted tells that the root of a peer was dropped during the handshake.
var ErrUntrusted = errors.New("the root of the peer is not trusted any more")

// Watch is called before the handshake of a connection, and the function it returns after it. From then on,
// until release is called, the connection is watched: once a change of the trust bundle has left the peer's
// chain without a root, drain is called, which must not block, and UntrustedGrace later cut. What the peer's
// certificate says is not judged again, nor is the time: certificates are short, and connections may outlive
// them. If the root was dropped during the handshake already, the error is ErrUntrusted.
//
// release may be called more than once.
func (s *Store) Watch() func(state tls.ConnectionState, drain, cut func()) (release func(), err error) {
	before := s.current.Load().trust
	return func(state tls.ConnectionState, drain, cut func()) (func(), error) {
		w := &watched{peer: state.PeerCertificates, at: s.now(), drain: drain, cut: cut}
		s.watching.Lock()
		defer s.watching.Unlock()
		if now := s.current.Load().trust; now != before && now != nil && !now.vouches(w) {
			return nil, ErrUntrusted
		}
		s.watched[w] = struct{}{}
		return func() { s.release(w) }, nil
	}
}

func (s *Store) release(w *watched) {
	s.watching.Lock()
	defer s.watching.Unlock()
	delete(s.watched, w)
	if w.timer != nil {
		w.timer.Stop()
	}
}

// endUntrusted begins the end of the connections whose peers t does not vouch for.
func (s *Store) endUntrusted(t *trust) {
	for _, w := range s.untrusted(t) {
		w.drain()
	}
}

// untrusted starts the grace of the connections whose peers t does not vouch for, and returns them.
func (s *Store) untrusted(t *trust) []*watched {
	s.watching.Lock()
	defer s.watching.Unlock()
	verdicts := map[string]bool{} // by leaf: a peer has many connections
	var ended []*watched
	for w := range s.watched {
		if w.timer != nil || len(w.peer) == 0 {
			continue
		}
		leaf := string(w.peer[0].Raw)
		trusted, judged := verdicts[leaf]
		if !judged {
			trusted = t.vouches(w)
			verdicts[leaf] = trusted
		}
		if !trusted {
			w.timer = time.AfterFunc(UntrustedGrace, w.cut)
			ended = append(ended, w)
		}
	}
	return ended
}

// vouches tells whether the chain that a peer proved itself with leads to a root of t.
func (t *trust) vouches(w *watched) bool {
	if len(w.peer) == 0 {
		return false
	}
	_, err := w.peer[0].Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: pool(w.peer[1:]), CurrentTime: w.at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// pool returns certificates as a pool.
func pool(certificates []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certificates {
		p.AddCert(c)
	}
	return p
}
