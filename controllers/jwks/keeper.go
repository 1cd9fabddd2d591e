// Package jwks reads the key sets of the issuers of tokens and keeps them: those with a URL over the network, within
// bounds that the Mesh sets, and over outages and restarts of the operator; others from the API. It does not decide
// which ones are needed, nor what they are for.
package jwks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/jwt"
)

// ConfigMap holds the sets that were fetched last, in the operator's namespace.
const ConfigMap = "weft-jwks"

const (
	// objectInterval is how often Secrets and ConfigMaps are read again. They are not watched: RBAC grants a watch of a
	// ConfigMap by its name alone only to whoever has that name in a role, and of others only together with the right to
	// list all of the namespace, which the operator has no other use for (decision 15).
	objectInterval = 20 * time.Second
	// leastWait and mostWait are how long it is at least and at most until the next attempt after one that has
	// failed.
	leastWait, mostWait = 2 * time.Second, 5 * time.Minute
	// concurrent bounds the attempts that are under way.
	concurrent = 8
	// maxSaved bounds what is kept in the ConfigMap, which may have a MiB.
	maxSaved = 900 << 10
)

// Keeper keeps key sets. The exported fields are set before it is used.
type Keeper struct {
	// Client writes the ConfigMap, Reader reads from the API server.
	Client    client.Client
	Reader    client.Reader
	Namespace string
	Log       logr.Logger
	// Fetch reads the set at a URL; nil means the function of that name.
	Fetch func(ctx context.Context, url string, hosts []meshv1alpha1.JWKSHost) (string, error)

	mu      sync.Mutex
	sources map[compile.KeySource]*source
	hosts   []meshv1alpha1.JWKSHost
	changed chan struct{}
	woken   chan struct{}
	loaded  bool
	// saved is what the ConfigMap holds, as far as it is known.
	saved map[string]string
	// rest counts the reads of sets that are not measured by themselves.
	rest reads
}

// source is one key set.
type source struct {
	every time.Duration
	set   compile.KeySet
	// due is when it is read next, busy while it is being read.
	due      time.Time
	busy     bool
	failures int
	reads    reads
	measured bool
}

// record is how the ConfigMap holds a set.
type record struct {
	URL  string `json:"url"`
	Keys string `json:"keys"`
}

// New returns a Keeper of nothing.
func New(c client.Client, reader client.Reader, namespace string, log logr.Logger) *Keeper {
	return &Keeper{
		Client: c, Reader: reader, Namespace: namespace, Log: log, Fetch: Fetch,
		sources: map[compile.KeySource]*source{}, changed: make(chan struct{}), woken: make(chan struct{}, 1),
	}
}

// Load reads what the operator before this one has fetched. It does so once; until it has, nothing is fetched. What
// cannot be understood is left out, and fetched again.
func (k *Keeper) Load(ctx context.Context) error {
	k.mu.Lock()
	loaded := k.loaded
	k.mu.Unlock()
	if loaded {
		return nil
	}
	cm := &corev1.ConfigMap{}
	err := k.Reader.Get(ctx, types.NamespacedName{Namespace: k.Namespace, Name: ConfigMap}, cm)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get key sets: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loaded, k.saved = true, cm.Data
	for _, text := range cm.Data {
		var r record
		if json.Unmarshal([]byte(text), &r) != nil || r.URL == "" {
			continue
		}
		keys, err := jwt.Normalize([]byte(r.Keys))
		if err != nil {
			k.Log.Error(err, "a saved key set cannot be used", "url", r.URL)
			continue
		}
		k.sources[compile.KeySource{URL: r.URL}] = &source{set: compile.KeySet{Keys: keys}}
	}
	return nil
}

// Need tells which sets are needed and how often each is to be fetched, and which hosts the Mesh allows. Others are
// forgotten.
func (k *Keeper) Need(needed map[compile.KeySource]time.Duration, hosts []meshv1alpha1.JWKSHost) {
	k.mu.Lock()
	defer k.mu.Unlock()
	rehosted := !slices.EqualFunc(hosts, k.hosts, sameHost)
	k.hosts = slices.Clone(hosts)
	wake := false
	for key, every := range needed {
		s := k.sources[key]
		if s == nil {
			s = &source{}
			k.sources[key] = s
		}
		if s.every == 0 && !s.measured {
			k.measure(s)
		}
		if key.URL == "" {
			every = objectInterval
		}
		if s.every != every || rehosted && key.URL != "" {
			s.every, s.due, s.failures = every, time.Time{}, 0
			wake = true
		}
	}
	for key := range k.sources {
		if _, still := needed[key]; !still {
			delete(k.sources, key)
			wake = true
		}
	}
	if wake {
		k.wake()
	}
}

func sameHost(a, b meshv1alpha1.JWKSHost) bool {
	return a.Host == b.Host && a.CABundle == b.CABundle && (a.PlainText != nil && *a.PlainText) == (b.PlainText != nil && *b.PlainText)
}

func (k *Keeper) wake() {
	select {
	case k.woken <- struct{}{}:
	default: // a wake-up is pending already
	}
}

// Sets returns what is known of the sets that are needed.
func (k *Keeper) Sets() map[compile.KeySource]compile.KeySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[compile.KeySource]compile.KeySet, len(k.sources))
	for key, s := range k.sources {
		out[key] = s.set
	}
	return out
}

// Changed returns a channel that is closed when Sets may answer otherwise.
func (k *Keeper) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Start reads sets when they are due, until ctx ends.
func (k *Keeper) Start(ctx context.Context) error {
	turns := make(chan struct{}, concurrent)
	var reading sync.WaitGroup
	defer reading.Wait()
	for {
		timer := time.NewTimer(k.untilDue(time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-k.woken:
		case <-timer.C:
		}
		timer.Stop()
		for _, key := range k.due(time.Now()) {
			reading.Go(func() {
				select {
				case turns <- struct{}{}:
				case <-ctx.Done():
					return
				}
				defer func() { <-turns }()
				k.read(ctx, key)
			})
		}
		if err := k.save(ctx); err != nil && ctx.Err() == nil {
			k.Log.Error(err, "key sets cannot be saved: an operator that starts while an issuer is away will not know its keys")
		}
	}
}

// untilDue returns how long nothing is to be done.
func (k *Keeper) untilDue(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := time.Hour
	for _, s := range k.sources {
		if !s.busy && s.every > 0 {
			wait = min(wait, max(0, s.due.Sub(now)))
		}
	}
	return wait
}

// due returns the sets that are to be read now, and marks them.
func (k *Keeper) due(now time.Time) []compile.KeySource {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []compile.KeySource
	for key, s := range k.sources {
		if !s.busy && s.every > 0 && !s.due.After(now) {
			s.busy = true
			out = append(out, key)
		}
	}
	return out
}

// read reads one set.
func (k *Keeper) read(ctx context.Context, key compile.KeySource) {
	k.mu.Lock()
	hosts, s := k.hosts, k.sources[key]
	k.mu.Unlock()
	if s == nil {
		return
	}
	var keys string
	var err error
	if key.URL != "" {
		keys, err = k.Fetch(ctx, key.URL, hosts)
	} else {
		keys, err = k.object(ctx, key)
	}
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// There is more to do, if only to wait anew.
	defer k.wake()
	s.busy = false
	k.count(s, err)
	before := s.set
	var wait time.Duration
	if err == nil {
		s.set, s.failures = compile.KeySet{Keys: keys}, 0
		wait = spread(s.every)
	} else {
		s.set.Problem = err.Error()
		if errors.Is(err, errAbsent) {
			s.set.Keys = ""
		}
		s.failures++
		wait = spread(min(s.every, mostWait, leastWait<<min(s.failures, 10)))
		if before.Problem != s.set.Problem {
			k.Log.Info("a key set cannot be read", "source", key.String(), "reason", s.set.Problem, "kept", s.set.Keys != "")
		}
	}
	// Whatever has changed meanwhile is a reason to read it again at once.
	if slices.EqualFunc(hosts, k.hosts, sameHost) {
		s.due = time.Now().Add(wait)
	}
	if s.set != before && k.sources[key] == s {
		close(k.changed)
		k.changed = make(chan struct{})
	}
}

// spread varies a duration by a tenth, so that not all sets are read at once.
func spread(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// errAbsent tells that an object has no keys, which is what its owner says, unlike a set that cannot be fetched.
var errAbsent = errors.New("")

// absent wraps errAbsent.
type absent struct{ why string }

func (a absent) Error() string   { return a.why }
func (absent) Is(err error) bool { return err == errAbsent }

// object reads a set from a Secret or ConfigMap.
func (k *Keeper) object(ctx context.Context, key compile.KeySource) (string, error) {
	name := types.NamespacedName{Namespace: key.Namespace, Name: key.Name}
	var data []byte
	var err error
	var there bool
	if key.Kind == "Secret" {
		secret := &corev1.Secret{}
		err = k.Reader.Get(ctx, name, secret)
		data, there = secret.Data[key.Key]
	} else {
		cm := &corev1.ConfigMap{}
		err = k.Reader.Get(ctx, name, cm)
		var text string
		text, there = cm.Data[key.Key]
		data = []byte(text)
	}
	switch {
	case apierrors.IsNotFound(err):
		return "", absent{"it does not exist"}
	case apierrors.IsForbidden(err):
		return "", errors.New("the operator may not read it yet")
	case err != nil:
		return "", errors.New("it cannot be read from the API server")
	case !there:
		return "", absent{"it has no such key"}
	case len(data) > maxSet:
		return "", absent{fmt.Sprintf("it is longer than %d bytes", maxSet)}
	}
	keys, err := jwt.Normalize(data)
	if err != nil {
		if key.Kind == "Secret" {
			// What a parser says of a secret may tell something of it.
			return "", absent{"it is no JSON Web Key Set with a key that can be used"}
		}
		return "", absent{err.Error()}
	}
	return keys, nil
}

// save writes what has been fetched, if that is not what is saved. Sets that do not fit are left out.
func (k *Keeper) save(ctx context.Context) error {
	k.mu.Lock()
	next := map[string]string{}
	urls := slices.SortedFunc(maps.Keys(k.sources), func(a, b compile.KeySource) int { return strings.Compare(a.URL, b.URL) })
	size := 0
	for _, key := range urls {
		if key.URL == "" || k.sources[key].set.Keys == "" {
			continue
		}
		data, err := json.Marshal(record{key.URL, k.sources[key].set.Keys})
		if err != nil {
			k.mu.Unlock()
			return fmt.Errorf("encode a key set: %w", err)
		}
		if size += len(data) + 64; size > maxSaved {
			break
		}
		hash := sha256.Sum256([]byte(key.URL))
		next[hex.EncodeToString(hash[:16])] = string(data)
	}
	same := !k.loaded || maps.Equal(next, k.saved)
	k.mu.Unlock()
	if same {
		return nil
	}
	cm := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: ConfigMap},
		Data:       next,
	}
	err := k.Client.Update(ctx, cm)
	if apierrors.IsNotFound(err) {
		err = k.Client.Create(ctx, cm)
	}
	if err != nil {
		return fmt.Errorf("save key sets: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.saved = next
	return nil
}
