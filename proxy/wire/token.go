package wire

// TokenVerification says which JSON Web Tokens (RFC 7519) a policy believes.
type TokenVerification struct {
	Issuers []TokenIssuer `json:"issuers"`
	// Places are where tokens are; without any it is "Authorization: Bearer".
	Places []TokenPlace `json:"places,omitempty"`
}

// TokenIssuer signs tokens.
type TokenIssuer struct {
	// Issuer is the claim "iss" of its tokens.
	Issuer string `json:"issuer"`
	// Audiences are values of the claim "aud" of which a token must have one; without any it does not matter.
	Audiences []string `json:"audiences,omitempty"`
	// Keys are the public keys as a JSON Web Key Set (RFC 7517). Empty while they are not known: no token of the
	// issuer can be verified then.
	Keys string `json:"keys,omitempty"`
	// Headers are set from the claims of a verified token. What clients send under these names is removed.
	Headers []ClaimHeader `json:"headers,omitempty"`
}

// TokenPlace is a header, whose values have a token after Prefix, or a cookie; exactly one is named.
type TokenPlace struct {
	Header string `json:"header,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Cookie string `json:"cookie,omitempty"`
}

// ClaimHeader is a header that is set from a claim.
type ClaimHeader struct {
	Name string `json:"name"`
	// Path leads through objects to the claim.
	Path []string `json:"path"`
}

// TokenMatch matches a token if every field that is set has a value that the token has; of Claims all must.
type TokenMatch struct {
	Issuers   []string     `json:"issuers,omitempty"`
	Subjects  []string     `json:"subjects,omitempty"`
	Audiences []string     `json:"audiences,omitempty"`
	Claims    []ClaimMatch `json:"claims,omitempty"`
}

// ClaimMatch matches a claim that is, or as a list holds, one of Values: a string, a number as the token has it
// written, true or false. Without Values it must be there and not be null. The claims "scope" and "scp" of a
// token are lists even as a string, in which spaces separate the members (RFC 8693 section 4.2).
type ClaimMatch struct {
	Path   []string `json:"path"`
	Values []string `json:"values,omitempty"`
}
