package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// ErrInvalidID tells that a string or certificate carries no valid SPIFFE ID of a workload.
var ErrInvalidID = errors.New("invalid SPIFFE ID")

// The longest forms that a valid part can have: SPIFFE-ID section 2.1 and 2.3, RFC 1123 labels.
const (
	maxID          = 2048
	maxTrustDomain = 255
	maxLabel       = 63
	maxSubdomain   = 253
)

// PeerID is the identity in a workload's certificate:
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
type PeerID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// String returns the SPIFFE ID.
func (p PeerID) String() string {
	return "spiffe://" + p.TrustDomain + "/ns/" + p.Namespace + "/sa/" + p.ServiceAccount
}

// ParseID parses a SPIFFE ID of the form above and nothing else: no percent-encoding, port, user, query
// or fragment, every part a valid Kubernetes name. The error wraps ErrInvalidID.
func ParseID(id string) (PeerID, error) {
	if len(id) > maxID {
		return PeerID{}, fmt.Errorf("%w: %d bytes long", ErrInvalidID, len(id))
	}
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return PeerID{}, fmt.Errorf("%w: %q is no spiffe URI", ErrInvalidID, id)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return PeerID{}, fmt.Errorf("%w: the path of %q is not /ns/<namespace>/sa/<service account>", ErrInvalidID, id)
	}
	peer := PeerID{TrustDomain: parts[0], Namespace: parts[2], ServiceAccount: parts[4]}
	switch {
	case !validTrustDomain(peer.TrustDomain):
		return PeerID{}, fmt.Errorf("%w: trust domain of %q", ErrInvalidID, id)
	case !validLabel(peer.Namespace):
		return PeerID{}, fmt.Errorf("%w: namespace of %q", ErrInvalidID, id)
	case !validSubdomain(peer.ServiceAccount):
		return PeerID{}, fmt.Errorf("%w: service account of %q", ErrInvalidID, id)
	}
	return peer, nil
}

// oidSubjectAltName is the extension that holds the names of a certificate (RFC 5280 section 4.2.1.6), uriName
// the tag of a URI in it.
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

const uriName = 6

// CertificateID returns the identity of a leaf certificate (SPIFFE X.509-SVID sections 2 to 4): exactly
// one URI name, not a CA, and no key usage that signs certificates. The error wraps ErrInvalidID.
func CertificateID(leaf *x509.Certificate) (PeerID, error) {
	names, err := uriNames(leaf)
	switch {
	case err != nil:
		return PeerID{}, err
	case len(names) != 1:
		return PeerID{}, fmt.Errorf("%w: certificate has %d URI names", ErrInvalidID, len(names))
	case leaf.IsCA, leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return PeerID{}, fmt.Errorf("%w: certificate may sign others", ErrInvalidID)
	}
	return ParseID(names[0])
}

// uriNames returns the URI names of a certificate as they stand in it. In Certificate.URIs they have been
// through url.Parse, which takes SPIFFE: for spiffe: and drops an empty fragment.
func uriNames(c *x509.Certificate) ([]string, error) {
	var names []string
	for _, extension := range c.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			continue
		}
		var all []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &all); err != nil || len(rest) > 0 {
			return nil, fmt.Errorf("%w: certificate has malformed names", ErrInvalidID)
		}
		for _, name := range all {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriName {
				names = append(names, string(name.Bytes))
			}
		}
	}
	return names, nil
}

// ConnectionID returns the identity of the peer of a connection whose handshake a configuration of this
// package has verified; of any other connection it proves nothing.
func ConnectionID(state tls.ConnectionState) (PeerID, error) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return PeerID{}, fmt.Errorf("%w: connection has no peer certificate", ErrInvalidID)
	}
	return CertificateID(state.PeerCertificates[0])
}

// validTrustDomain follows SPIFFE-ID section 2.1: lower-case letters, digits, dots, dashes, underscores.
func validTrustDomain(s string) bool {
	if s == "" || len(s) > maxTrustDomain {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !lowerAlphanumeric(c) && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// validSubdomain tells whether s is an RFC 1123 subdomain, as names of service accounts are.
func validSubdomain(s string) bool {
	if len(s) > maxSubdomain {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		// The length of a label is not bounded here: Kubernetes bounds only the whole.
		if !alphanumericEnds(label) {
			return false
		}
	}
	return true
}

// validLabel tells whether s is an RFC 1123 label, as names of namespaces are.
func validLabel(s string) bool { return len(s) <= maxLabel && alphanumericEnds(s) }

// alphanumericEnds tells whether s is made of lower-case letters, digits and inner dashes.
func alphanumericEnds(s string) bool {
	if s == "" || !lowerAlphanumeric(s[0]) || !lowerAlphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !lowerAlphanumeric(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

func lowerAlphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
