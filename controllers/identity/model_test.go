package identity_test

import (
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"weft.dev/weft/controllers/identity"
)

// fleet is a model of an operator with proxies. Every proxy that serves has a trust bundle and a certificate
// in force, which are what it acknowledged last. The operator knows nothing but the Secret.
type fleet struct {
	t       *testing.T
	random  *rand.Rand
	now     time.Time
	secret  *corev1.Secret
	request string
	// credulous makes the operator take everything for acknowledged.
	credulous bool
	proxies   map[string]*modelProxy
	steps     int
	// source is where the authority is to be from, offered what a user has in a Secret of that name.
	source  string
	offered map[string][]byte
	roots   []*userRoot
	// parsed is what parsedFrom holds. accepted has the bundles, chains and moments that were tried.
	parsed     *identity.Authority
	parsedFrom *corev1.Secret
	accepted   map[[2]string]time.Time
}

type modelProxy struct {
	bundle, chain, issuer string
	// serving proxies take traffic; others get everything before they do again.
	serving bool
}

func (f *fleet) authority() *identity.Authority {
	if f.parsed == nil || f.parsedFrom != f.secret {
		f.parsed, f.parsedFrom = parseAuthority(f.t, f.secret), f.secret
	}
	return f.parsed
}

// deliver brings one proxy what is published: the bundle, the certificate or both.
func (f *fleet) deliver(name string, bundle, certificate bool) {
	p, a := f.proxies[name], f.authority()
	if bundle {
		p.bundle = a.CA.Bundle()
	}
	if certificate {
		pair, err := a.CA.Issue(makeID("shop", name), 24*time.Hour, f.now)
		if err != nil {
			f.t.Fatal(err)
		}
		p.chain, p.issuer = pair.Chain, a.CA.Fingerprint()
	}
}

// evidence asks the proxies that serve.
func (f *fleet) evidence() identity.Evidence {
	a := f.authority()
	e := identity.Evidence{Request: f.request, Trusted: a.CA.Bundle(), Issuer: a.CA.Fingerprint(), Source: f.source}
	if f.source != "" {
		var err error
		if e.Offer, err = identity.ReadOffer(f.source, f.offered, use, f.now); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, p := range f.proxies {
		if p.serving && !f.credulous {
			if p.bundle != a.CA.Bundle() {
				e.Trusted = ""
			}
			if p.issuer != a.CA.Fingerprint() {
				e.Issuer = ""
			}
		}
	}
	return e
}

// tick is what an operator does that starts, takes at most one step, and ends: with lost, before its write
// has reached the API server.
func (f *fleet) tick(lost bool) {
	a, e := f.authority(), f.evidence()
	step := a.Decide(e, f.now)
	if step == identity.None {
		return
	}
	next, err := a.After(step, e, f.now)
	if err != nil {
		f.t.Fatal(err)
	}
	if !lost {
		f.secret = next
		f.steps++
	}
}

// broken returns a pair of proxies that serve and of which one refuses the other.
func (f *fleet) broken() string {
	for caller, c := range f.proxies {
		for callee, s := range f.proxies {
			if !c.serving || !s.serving {
				continue
			}
			if f.accepted[[2]string{s.bundle, c.chain}].Equal(f.now) {
				continue
			}
			if err := verify(f.t, s.bundle, c.chain, x509.ExtKeyUsageClientAuth, f.now); err != nil {
				return fmt.Sprintf("%s refuses %s: %v", callee, caller, err)
			}
			f.accepted[[2]string{s.bundle, c.chain}] = f.now
		}
	}
	return ""
}

// act does one thing that can happen.
func (f *fleet) act() string {
	names := slices.Sorted(maps.Keys(f.proxies))
	name := names[f.random.IntN(len(names))]
	p := f.proxies[name]
	switch n := f.random.IntN(12); {
	case n < 3:
		f.tick(f.random.IntN(3) == 0)
		return "tick"
	case n < 5 && p.serving:
		f.deliver(name, true, false)
		return "bundle for " + name
	case n < 7 && p.serving && p.bundle == f.authority().CA.Bundle():
		// A stream brings changes in their order.
		f.deliver(name, true, true)
		return "certificate for " + name
	case n == 7:
		p.serving = !p.serving
		if p.serving {
			f.deliver(name, true, true)
		}
		return fmt.Sprintf("%s serves: %v", name, p.serving)
	case n == 8:
		f.request = strconv.Itoa(f.random.IntN(100))
		return "request " + f.request
	case n == 9:
		// A user names a Secret, changes it or goes back: another intermediate, another root, roots beside it.
		if f.source = ""; f.random.IntN(4) > 0 {
			f.source = "secret/" + strconv.Itoa(f.random.IntN(2))
			issuing := f.roots[f.random.IntN(len(f.roots))]
			f.offered = issuing.data(f.t, f.roots[:f.random.IntN(len(f.roots))]...)
		}
		return "source " + f.source
	default:
		// Months pass: certificates are renewed, and nobody who serves is behind for so long.
		f.now = f.now.Add(time.Duration(f.random.IntN(8)) * 30 * 24 * time.Hour)
		f.tick(false)
		for _, name := range names {
			if f.proxies[name].serving {
				f.deliver(name, true, true)
			}
		}
		return "months"
	}
}

func newFleet(t *testing.T, seed uint64, credulous bool) *fleet {
	f := &fleet{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), now: start, credulous: credulous,
		secret: authoritySecret(caData(t, start)), proxies: map[string]*modelProxy{}, accepted: map[[2]string]time.Time{},
	}
	f.roots = []*userRoot{newUserRoot(t), newUserRoot(t), newUserRoot(t)}
	for _, name := range []string{"cart", "till", "bank"} {
		f.proxies[name] = &modelProxy{serving: true}
		f.deliver(name, true, true)
	}
	return f
}

// However operators come and go, nobody who serves ever refuses another, and every exchange comes to its
// end once everybody has what is published.
func TestNoExchangeCutsAnybodyOff(t *testing.T) {
	steps := 0
	for seed := range uint64(25) {
		f := newFleet(t, seed, false)
		var history []string
		for range 60 {
			history = append(history, f.act())
			if fault := f.broken(); fault != "" {
				t.Fatalf("seed %d, in phase %s: %s, after %s", seed, f.authority().Phase, fault, strings.Join(history, "; "))
			}
		}
		f.request, f.source = "the last", ""
		for range 60 {
			f.tick(false)
			for name := range f.proxies {
				f.deliver(name, true, true)
			}
		}
		a := f.authority()
		if a.Phase != identity.Steady || a.Handled != "the last" || len(a.Roots()) != 1 {
			t.Fatalf("seed %d: the last exchange (%q handled) stays in phase %s with %d roots", seed, a.Handled, a.Phase, len(a.Roots()))
		}
		steps += f.steps
	}
	t.Logf("%d steps", steps)
}

// The model tells a hasty operator from a patient one.
func TestTheModelFindsHaste(t *testing.T) {
	for seed := range uint64(50) {
		f := newFleet(t, seed, true)
		for range 60 {
			f.act()
			if f.broken() != "" {
				return
			}
		}
	}
	t.Error("an operator that waits for nobody cut nobody off")
}
