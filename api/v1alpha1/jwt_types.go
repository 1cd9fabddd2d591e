package v1alpha1

import gwv1 "sigs.k8s.io/gateway-api/apis/v1"

// AuthorizationJWT says which JSON Web Tokens a policy believes. They are verified by the proxies of the policy's
// namespace. A request without a token is judged by the rules alone. One with a token that cannot be verified is
// refused, whatever the rules say, and so is one with several tokens.
type AuthorizationJWT struct {
	// issuers sign the tokens.
	// +required
	// +listType=map
	// +listMapKey=issuer
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Issuers []JWTIssuer `json:"issuers,omitempty"`

	// from are the places where tokens are looked for. Without any it is the header Authorization, after "Bearer ".
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	From []JWTPlace `json:"from,omitempty"` //nolint:kubeapilinter // it has at least one property
}

// JWTIssuer signs tokens.
type JWTIssuer struct {
	// issuer is the claim "iss" of its tokens, compared as it is.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Issuer string `json:"issuer,omitempty"`

	// audiences are values of the claim "aud". A token must have one of them. Without any, tokens that the issuer
	// has signed for others are believed as well.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences,omitempty"`

	// jwks is where the public keys of the issuer are, as a JSON Web Key Set. RSA, ECDSA and Ed25519 keys are used,
	// for RS256 to RS512, PS256 to PS512, ES256 to ES512 and EdDSA.
	// +required
	JWKS JWKSSource `json:"jwks,omitempty,omitzero"` //nolint:kubeapilinter // one of its fields is required

	// claimsToHeaders sets headers of requests from the claims of their token. What clients send under these names
	// is removed from all requests to the targets.
	// +optional
	// +listType=map
	// +listMapKey=header
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	ClaimsToHeaders []ClaimToHeader `json:"claimsToHeaders,omitempty"`
}

// JWKSSource is where a JSON Web Key Set is.
// +kubebuilder:validation:XValidation:rule="(has(self.url) ? 1 : 0) + (has(self.secretRef) ? 1 : 0) + (has(self.configMapRef) ? 1 : 0) == 1",message="name one of url, secretRef and configMapRef"
// +kubebuilder:validation:XValidation:rule="has(self.url) || !has(self.refreshInterval)",message="refreshInterval goes with url"
type JWKSSource struct {
	// url is fetched by the operator: by https from public addresses, unless spec.jwks.hosts of the Mesh says
	// otherwise for its host. While it cannot be fetched, the keys that were fetched last stay in force.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://[^\s#]+$`
	URL string `json:"url,omitempty"`

	// refreshInterval is how often the url is fetched, give or take a tenth. 5m if it is not set.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="refreshInterval must be between 10s and 24h"
	RefreshInterval *gwv1.Duration `json:"refreshInterval,omitempty"`

	// secretRef names a Secret of the policy's namespace. It is read again within half a minute of a change.
	// +optional
	SecretRef *JWKSReference `json:"secretRef,omitempty"` //nolint:kubeapilinter // nil is none

	// configMapRef names a ConfigMap of the policy's namespace. It is read again within half a minute of a change.
	// +optional
	ConfigMapRef *JWKSReference `json:"configMapRef,omitempty"` //nolint:kubeapilinter // nil is none
}

// JWKSReference names a part of a Secret or ConfigMap.
type JWKSReference struct {
	// name of the object.
	// +required
	Name gwv1.ObjectName `json:"name,omitempty"` //nolint:kubeapilinter // the type has a least length

	// key of the part.
	// +optional
	// +default="jwks.json"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// JWTPlace is a header or a cookie.
// +kubebuilder:validation:XValidation:rule="has(self.header) != has(self.cookie)",message="name a header or a cookie"
// +kubebuilder:validation:XValidation:rule="has(self.header) || !has(self.prefix)",message="prefix goes with header"
type JWTPlace struct {
	// header whose value is the token, in any case.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_|~]+$`
	Header string `json:"header,omitempty"`

	// prefix before the token, in any case, such as "Bearer ". Values without it have no token.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Prefix string `json:"prefix,omitempty"`

	// cookie whose value is the token.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_|~]+$`
	Cookie string `json:"cookie,omitempty"`
}

// ClaimToHeader sets a header from a claim.
type ClaimToHeader struct {
	// header that is set. Strings, numbers and booleans are written as they are, everything else as JSON.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_|~]+$`
	Header string `json:"header,omitempty"`

	// claim is the path to the claim, one name for each object on the way.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Claim []string `json:"claim,omitempty"`
}

// JWTMatch matches requests with a token that spec.jwt verifies, if every field that is set has a value that the
// token has; of claims all must. Without fields it matches every verified token.
type JWTMatch struct {
	// issuers are values of the claim "iss".
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Issuers []string `json:"issuers,omitempty"`

	// subjects are values of the claim "sub".
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Subjects []string `json:"subjects,omitempty"`

	// audiences are values of the claim "aud", of which a token may have several.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences,omitempty"`

	// claims that the token must have, all of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Claims []JWTClaim `json:"claims,omitempty"`
}

// JWTClaim is compared with a claim of a token.
type JWTClaim struct {
	// path to the claim, one name for each object on the way.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Path []string `json:"path,omitempty"`

	// values of which the claim must be one or, if it is a list, have one: strings, numbers as the token has them
	// written, true and false. The members of "scope" and "scp" may be separated by spaces. Without values the
	// claim must be there.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Values []string `json:"values,omitempty"`
}

// JWKSSpec says what of the network the operator may fetch key sets from.
type JWKSSpec struct {
	// hosts may have addresses that are not public, such as those of Services of the cluster. Key sets are fetched
	// from no other such host.
	// +optional
	// +listType=map
	// +listMapKey=host
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Hosts []JWKSHost `json:"hosts,omitempty"`
}

// JWKSHost is a host that key sets may be fetched from whatever its address is.
type JWKSHost struct {
	// host is a name or an address, as URLs have it, without a port.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9.:-]+$`
	Host string `json:"host,omitempty"`

	// plainText allows http. Whoever can change what travels can then forge tokens.
	// +optional
	PlainText *bool `json:"plainText,omitempty"`

	// caBundle are PEM certificates that the host's certificate may lead to, beside those of the system.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	CABundle string `json:"caBundle,omitempty"`
}
