package distribute

import (
	"context"
	"errors"
)

// Authenticator turns a bearer token into an identity.
type Authenticator interface {
	// Authenticate returns who the token belongs to. An error that wraps ErrUnauthenticated means that
	// the token proves nothing; any other means that the question could not be answered now.
	Authenticate(ctx context.Context, token string) (Identity, error)
}

// ErrUnauthenticated says that a token does not prove an identity that may have configuration.
var ErrUnauthenticated = errors.New("unauthenticated")
