package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// ID is a workload identity: a Kubernetes ServiceAccount within a trust domain.
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
	// Serves tells that a pod of it has a proxy of its own, which is a server of the hop by this identity.
	Serves bool
}

// URL returns the SPIFFE ID "spiffe://<trust domain>/ns/<namespace>/sa/<serviceaccount>", the form that
// SPIFFE-ID section 2 allows and that other Kubernetes meshes use.
func (id ID) URL() *url.URL {
	return &url.URL{
		Scheme: "spiffe",
		Host:   id.TrustDomain,
		Path:   "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount,
	}
}

// String returns the SPIFFE ID in text.
func (id ID) String() string { return id.URL().String() }

const (
	secretPrefix = "weft-identity-"
	// maxNameLength is the longest name of a Secret: a DNS subdomain (RFC 1123).
	maxNameLength = 253
)

// SecretName returns the name of the Secret that keeps a ServiceAccount's certificate. A
// ServiceAccount's name may be as long as a Secret's; where the prefix does not fit any more, the tail
// gives way to a hash of the whole.
func SecretName(serviceAccount string) string {
	name := secretPrefix + serviceAccount
	if len(name) <= maxNameLength {
		return name
	}
	sum := sha256.Sum256([]byte(serviceAccount))
	suffix := "-" + hex.EncodeToString(sum[:8])
	// A label of a DNS subdomain ends with a letter or digit.
	return strings.TrimRight(name[:maxNameLength-len(suffix)], ".-") + suffix
}
