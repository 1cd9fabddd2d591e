package distribute

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/proxy/wire"
)

// Authenticator turns a bearer token into an identity.
type Authenticator interface {
	// Authenticate returns who the token belongs to. An error that wraps ErrUnauthenticated means that
	// the token proves nothing; any other means that the question could not be answered now.
	Authenticate(ctx context.Context, token string) (Identity, error)
}

// ErrUnauthenticated says that a token does not prove an identity that may have configuration.
var ErrUnauthenticated = errors.New("unauthenticated")

const (
	// maxToken bounds a token, in bytes; those of Kubernetes have about one thousand.
	maxToken = 16 << 10
	// reviewLife is how long the API server's word on a token is believed.
	reviewLife = 30 * time.Second
	// maxReviews bounds the remembered answers, maxInFlight the questions asked at once: whoever can
	// reach the operator must not be able to flood the API server through it.
	maxReviews  = 4096
	maxInFlight = 16
)

// What the API server tells about a token that is bound to a pod.
const (
	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name"
)

// TokenReviewer asks the API server about a token: the TokenReviews of a client-go clientset.
type TokenReviewer interface {
	Create(ctx context.Context, review *authenticationv1.TokenReview, opts metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// TokenAuthenticatorOptions configure a TokenAuthenticator. All fields must be set.
type TokenAuthenticatorOptions struct {
	Reviewer TokenReviewer
	Pods     PodLookup
	// Proxy and Node are the workloads whose pods may have configuration. Node's Namespace must be set.
	Proxy, Node Workload
	// Sidecar tells whether a pod has a proxy beside it. Whoever may run a pod as a ServiceAccount may be that, so that the
	// pod need not belong to anything: it gets that ServiceAccount's identity and nothing beyond.
	Sidecar func(pod *corev1.Pod) bool
	// Enrolled tells whether proxies of a namespace may have configuration: the namespace is enrolled,
	// or still being left.
	Enrolled func(namespace string) bool
}

// TokenAuthenticator believes projected ServiceAccount tokens of the audience wire.TokenAudience that are
// bound to a pod of one of our workloads: the API server vouches for token, ServiceAccount and pod, and
// the pod must be what the token says and belong to the workload by its owner references. A ServiceAccount
// token that a user mounts into another pod proves nothing here.
type TokenAuthenticator struct {
	opts     TokenAuthenticatorOptions
	inFlight chan struct{}

	mu      sync.Mutex
	reviews map[[sha256.Size]byte]review
}

// review is what the API server says about a token.
type review struct {
	namespace, serviceAccount string
	pod, podUID, node         string
	expires, forget           time.Time
}

// NewTokenAuthenticator returns an authenticator that remembers positive answers for half a minute.
// Whether the token has expired and the pod still exists is checked anew each time.
func NewTokenAuthenticator(opts TokenAuthenticatorOptions) *TokenAuthenticator {
	return &TokenAuthenticator{
		opts:     opts,
		inFlight: make(chan struct{}, maxInFlight),
		reviews:  map[[sha256.Size]byte]review{},
	}
}

// Authenticate implements Authenticator.
func (a *TokenAuthenticator) Authenticate(ctx context.Context, token string) (Identity, error) {
	expires, err := expiry(token)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	key := sha256.Sum256([]byte(token))
	r, ok := a.remembered(key)
	if !ok {
		if r, err = a.ask(ctx, token); err != nil {
			return Identity{}, err
		}
		r.expires = expires
		a.remember(key, r)
	}
	return a.identify(ctx, r)
}

// expiry reads when a token ends. It trusts nothing else in it: the API server checks the rest. A token
// without an end is none that we asked for.
func expiry(token string) (time.Time, error) {
	if len(token) > maxToken {
		return time.Time{}, errors.New("the token is too long")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("the token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, errors.New("the token is no JWT")
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Expires == 0 {
		return time.Time{}, errors.New("the token has no expiry")
	}
	expires := time.Unix(claims.Expires, 0)
	if !time.Now().Before(expires) {
		return time.Time{}, errors.New("the token has expired")
	}
	return expires, nil
}

func (a *TokenAuthenticator) remembered(key [sha256.Size]byte) (review, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.reviews[key]
	return r, ok && time.Now().Before(r.forget)
}

func (a *TokenAuthenticator) remember(key [sha256.Size]byte, r review) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if len(a.reviews) >= maxReviews {
		for key, old := range a.reviews {
			if !now.Before(old.forget) {
				delete(a.reviews, key)
			}
		}
		if len(a.reviews) >= maxReviews {
			clear(a.reviews)
		}
	}
	r.forget = now.Add(reviewLife)
	a.reviews[key] = r
}

// ask has the API server check a token.
func (a *TokenAuthenticator) ask(ctx context.Context, token string) (review, error) {
	select {
	case a.inFlight <- struct{}{}:
		defer func() { <-a.inFlight }()
	case <-ctx.Done():
		return review{}, fmt.Errorf("token review: %w", ctx.Err())
	}
	answer, err := a.opts.Reviewer.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{wire.TokenAudience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return review{}, fmt.Errorf("token review: %w", err)
	}
	st := answer.Status
	// An API server that knows nothing of audiences leaves them empty; its word is worth nothing here.
	if !st.Authenticated || !slices.Contains(st.Audiences, wire.TokenAudience) {
		return review{}, fmt.Errorf("%w: the API server does not accept the token for audience %q",
			ErrUnauthenticated, wire.TokenAudience)
	}
	account, ok := strings.CutPrefix(st.User.Username, "system:serviceaccount:")
	namespace, name, ok2 := strings.Cut(account, ":")
	if !ok || !ok2 || namespace == "" || name == "" {
		return review{}, fmt.Errorf("%w: %q is no ServiceAccount", ErrUnauthenticated, st.User.Username)
	}
	r := review{
		namespace: namespace, serviceAccount: name,
		pod: single(st.User.Extra[extraPodName]), podUID: single(st.User.Extra[extraPodUID]),
		node: single(st.User.Extra[extraNodeName]),
	}
	if r.pod == "" || r.podUID == "" {
		return review{}, fmt.Errorf("%w: the token of %s/%s is not bound to a pod", ErrUnauthenticated, namespace, name)
	}
	return r, nil
}

// single returns the only value, or nothing.
func single(values authenticationv1.ExtraValue) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}
