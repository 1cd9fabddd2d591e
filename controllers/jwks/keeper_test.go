package jwks

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/jwt/jwttest"
)

const system = "weft-system"

var (
	idp     = compile.KeySource{URL: "https://id.example/keys"}
	partner = compile.KeySource{URL: "https://partner.example/keys"}
)

// network is a stand-in for what is fetched.
type network struct {
	mu      sync.Mutex
	sets    map[string]string
	fetched map[string]int
	hosts   []meshv1alpha1.JWKSHost
}

func (n *network) fetch(_ context.Context, url string, hosts []meshv1alpha1.JWKSHost) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fetched[url]++
	n.hosts = hosts
	if set, ok := n.sets[url]; ok {
		return set, nil
	}
	return "", errors.New("the connection was refused")
}

func (n *network) set(url, keys string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sets[url] = keys
	if keys == "" {
		delete(n.sets, url)
	}
}

func (n *network) count(url string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fetched[url]
}

func newNetwork() *network { return &network{sets: map[string]string{}, fetched: map[string]int{}} }

// started returns a running keeper that has loaded what is saved. It runs in a bubble of synctest.
func started(t *testing.T, c client.Client, n *network) *Keeper {
	t.Helper()
	k := New(c, c, system, logr.Discard())
	k.Fetch = n.fetch
	if err := k.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := k.Start(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return k
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func want(t *testing.T, k *Keeper, when string, sets map[compile.KeySource]compile.KeySet) {
	t.Helper()
	synctest.Wait()
	if got := k.Sets(); !maps.Equal(got, sets) {
		t.Errorf("%s: %v, want %v", when, got, sets)
	}
}

// TestKeysSurviveAnOutage: an issuer that is away costs nobody the keys that it had, across a restart of the operator.
func TestKeysSurviveAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := fake.NewClientBuilder().Build(), newNetwork()
		first, second := jwttest.Set(jwttest.New("one", jose.EdDSA)), jwttest.Set(jwttest.New("two", jose.EdDSA))
		n.set(idp.URL, first)
		k := started(t, c, n)
		changed := k.Changed()
		k.Need(map[compile.KeySource]time.Duration{idp: time.Minute, partner: time.Minute}, nil)
		refused := "the connection was refused"
		want(t, k, "at first", map[compile.KeySource]compile.KeySet{idp: {Keys: first}, partner: {Problem: refused}})
		select {
		case <-changed:
		default:
			t.Error("nobody is told")
		}
		n.set(idp.URL, "")
		pass(2 * time.Minute)
		want(t, k, "away", map[compile.KeySource]compile.KeySet{idp: {Keys: first, Problem: refused}, partner: {Problem: refused}})

		after := started(t, c, n)
		if got := after.Sets()[idp]; got.Keys != first {
			t.Errorf("after a restart: %v", got)
		}
		after.Need(map[compile.KeySource]time.Duration{idp: time.Minute}, nil)
		want(t, after, "after a restart, still away", map[compile.KeySource]compile.KeySet{idp: {Keys: first, Problem: refused}})
		n.set(idp.URL, second)
		pass(10 * time.Minute)
		want(t, after, "back", map[compile.KeySource]compile.KeySet{idp: {Keys: second}})

		cm := &corev1.ConfigMap{}
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: system, Name: ConfigMap}, cm); err != nil || len(cm.Data) != 1 {
			t.Errorf("saved: %v, %v", cm.Data, err)
		}
		after.Need(nil, nil)
		synctest.Wait()
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: system, Name: ConfigMap}, cm); err != nil || len(cm.Data) != 0 {
			t.Errorf("saved although nobody needs it: %v, %v", cm.Data, err)
		}
	})
}

// TestKeysAreFetchedInTime: by the interval, give or take a tenth, with longer waits while that fails, and at once
// when the Mesh allows other hosts.
func TestKeysAreFetchedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.set(idp.URL, jwttest.Set(jwttest.New("one", jose.EdDSA)))
		k := started(t, fake.NewClientBuilder().Build(), n)
		needed := map[compile.KeySource]time.Duration{idp: 10 * time.Minute, partner: time.Hour}
		k.Need(needed, nil)
		synctest.Wait()
		pass(2 * time.Hour)
		if got := n.count(idp.URL); got < 11 || got > 15 {
			t.Errorf("fetched %d times in two hours", got)
		}
		// Every wait is twice as long as the one before, up to five minutes.
		if got := n.count(partner.URL); got < 25 || got > 40 {
			t.Errorf("tried %d times in two hours", got)
		}
		before := n.count(idp.URL)
		k.Need(needed, nil)
		synctest.Wait()
		if got := n.count(idp.URL); got != before {
			t.Errorf("fetched %d times although nothing is new", got-before)
		}
		k.Need(needed, allowed("id.example", false, ""))
		synctest.Wait()
		if got := n.count(idp.URL); got != before+1 || len(n.hosts) != 1 {
			t.Errorf("fetched %d times for another host, with %v", got-before, n.hosts)
		}
	})
}

// TestKeysOfObjects: what their owner takes away is gone, unlike what cannot be fetched.
func TestKeysOfObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := jwttest.Set(jwttest.New("one", jose.EdDSA))
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"}, Data: map[string][]byte{"set.json": []byte(keys), "bad": []byte("pass")}}
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "c"}, Data: map[string]string{"jwks.json": keys}}
		c, n := fake.NewClientBuilder().WithObjects(secret, cm).Build(), newNetwork()
		k := started(t, c, n)
		source := func(kind, name, key string) compile.KeySource {
			return compile.KeySource{Kind: kind, Namespace: "shop", Name: name, Key: key}
		}
		good, other, bad := source("Secret", "s", "set.json"), source("ConfigMap", "c", "jwks.json"), source("Secret", "s", "bad")
		none, missing := source("Secret", "s", "none"), source("ConfigMap", "missing", "jwks.json")
		k.Need(map[compile.KeySource]time.Duration{good: 0, other: 0, bad: 0, none: 0, missing: 0}, nil)
		sets := map[compile.KeySource]compile.KeySet{
			good: {Keys: keys}, other: {Keys: keys}, bad: {Problem: "it is no JSON Web Key Set with a key that can be used"},
			none: {Problem: "it has no such key"}, missing: {Problem: "it does not exist"},
		}
		want(t, k, "at first", sets)
		if err := c.Delete(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
		pass(30 * time.Second)
		sets[other] = compile.KeySet{Problem: "it does not exist"}
		want(t, k, "deleted", sets)
	})
}

// TestSavedKeysThatAreDamaged: they are fetched again, and stop nothing.
func TestSavedKeysThatAreDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: ConfigMap}, Data: map[string]string{
			"a": "{", "b": `{"url":"https://id.example/keys","keys":"{}"}`, "c": "null", "d": strings.Repeat("[", 100000),
		}}
		n := newNetwork()
		keys := jwttest.Set(jwttest.New("one", jose.EdDSA))
		n.set(idp.URL, keys)
		k := started(t, fake.NewClientBuilder().WithObjects(cm).Build(), n)
		want(t, k, "before", map[compile.KeySource]compile.KeySet{})
		k.Need(map[compile.KeySource]time.Duration{idp: time.Minute}, nil)
		want(t, k, "after", map[compile.KeySource]compile.KeySet{idp: {Keys: keys}})
	})
}
