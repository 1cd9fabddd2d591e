package identity

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// State is what decides which certificates there should be.
type State struct {
	CA          *CA
	TrustDomain string
	// Lifetime of a new certificate, in whole seconds.
	Lifetime time.Duration
	// Issuing is since when the CA issues. Reissue tells that everything that another has signed is to be
	// replaced now, because a root is about to go.
	Issuing time.Time
	Reissue bool
	// Namespaces are those that have proxies: enrolled, or not yet drained. Any order.
	Namespaces []string
	// Pods may be of any namespace; their namespace, ServiceAccount and phase are read. Any order.
	Pods []*corev1.Pod
	// Sidecar tells which pods have proxies of their own; nil means none.
	Sidecar func(*corev1.Pod) bool
}

// Plan is what to do about the Secrets. Lists are sorted by namespace and name.
type Plan struct {
	// Issue lists the certificates to make.
	Issue []Request
	// Delete lists Secrets of ours that nobody needs.
	Delete []types.NamespacedName
	// Certificates are those that Secrets hold and peers accept now, also when they are to be renewed.
	Certificates []wire.Resource
	// Superseded counts those among Certificates that an earlier authority signed.
	Superseded int
	// Next is when another Plan will differ because of the time alone; zero when it will not.
	Next time.Time
}

// Request asks for one certificate.
type Request struct {
	ID     ID
	Secret types.NamespacedName
	// Reason tells people why the certificate is made now.
	Reason string
	// CanWait tells that there is a certificate that serves as well, and is not due.
	CanWait bool
}

// Desired compares the certificates that the state asks for with what Secrets hold.
//
// A ServiceAccount gets a certificate as soon as one of its pods exists, not when it runs, so that the
// pod's first request has an identity. When its last pod is gone the Secret stays until it would be
// renewed and is deleted then: Jobs come back, and connections outlive their pods. A certificate is
// renewed before half of its life is over, at a moment that differs by identity. One that an earlier authority
// signed is replaced within an hour, also at a moment that differs; at once if its root is about to go.
func Desired(state State, secrets []Held, now time.Time) Plan {
	unneeded := map[types.NamespacedName]Held{}
	for _, h := range secrets {
		unneeded[h.Secret] = h
	}
	var plan Plan
	for key, id := range state.identities() {
		h, ok := unneeded[key]
		if !ok {
			plan.Issue = append(plan.Issue, Request{ID: id, Secret: key, Reason: "there is no Secret"})
			continue
		}
		delete(unneeded, key)
		plan.keep(state, id, h, now)
	}
	for _, h := range unneeded {
		if h.Ours {
			plan.retire(state, h, now)
		}
	}
	slices.SortFunc(plan.Issue, func(a, b Request) int { return compareNames(a.Secret, b.Secret) })
	slices.SortFunc(plan.Delete, compareNames)
	slices.SortFunc(plan.Certificates, func(a, b wire.Resource) int { return strings.Compare(a.Key, b.Key) })
	return plan
}

// identities returns the identities the state asks for by the Secret they belong into.
func (s State) identities() map[types.NamespacedName]ID {
	wanted := map[types.NamespacedName]ID{}
	add := func(namespace, account string, serves bool) {
		key := types.NamespacedName{Namespace: namespace, Name: SecretName(account)}
		serves = serves || wanted[key].Serves
		wanted[key] = ID{TrustDomain: s.TrustDomain, Namespace: namespace, ServiceAccount: account, Serves: serves}
	}
	meshed := map[string]bool{}
	for _, namespace := range s.Namespaces {
		meshed[namespace] = true
		add(namespace, meshv1alpha1.ProxyName, false)
	}
	for _, pod := range s.Pods {
		done := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if meshed[pod.Namespace] && !done {
			// Admission fills the account in; "default" is what it fills in.
			add(pod.Namespace, cmp.Or(pod.Spec.ServiceAccountName, "default"), s.Sidecar != nil && s.Sidecar(pod))
		}
	}
	return wanted
}

// keep decides about the Secret of an identity that is needed.
func (p *Plan) keep(state State, id ID, h Held, now time.Time) {
	issue := func(reason string, canWait bool) {
		p.Issue = append(p.Issue, Request{ID: id, Secret: h.Secret, Reason: reason, CanWait: canWait})
	}
	if reason := h.unfit(id); reason != "" {
		issue(reason, false)
		return
	}
	if h.Superseded {
		p.Superseded++
	}
	switch replacement := state.replacement(h); {
	case !now.Before(h.renewal()):
		issue("it is due for renewal", false)
	case id.Serves && !h.Serves:
		issue("a pod has a proxy of its own, which is to serve with it", false)
	case h.life() > state.Lifetime:
		issue("it lives longer than configured", true)
	case !now.Before(replacement):
		issue("an earlier authority signed it", true)
	default:
		p.wake(replacement)
	}
	p.publish(h, now)
}

// replacement is when a certificate is to be replaced at the latest, as far as its time says.
func (s State) replacement(h Held) time.Time {
	renewal := h.renewal()
	switch {
	case !h.Superseded:
		return renewal
	case s.Reissue:
		return time.Time{}
	}
	window := min(s.Lifetime/4, time.Hour)
	if at := s.Issuing.Add(time.Duration(h.spread() * float64(window))); at.Before(renewal) {
		return at
	}
	return renewal
}

// retire decides about a Secret of ours that no pod needs.
func (p *Plan) retire(state State, h Held, now time.Time) {
	id := ID{TrustDomain: state.TrustDomain, Namespace: h.Secret.Namespace, ServiceAccount: h.Account}
	if h.Secret.Name != SecretName(h.Account) || h.unfit(id) != "" ||
		!slices.Contains(state.Namespaces, h.Secret.Namespace) ||
		h.life() > state.Lifetime || !now.Before(state.replacement(h)) {
		p.Delete = append(p.Delete, h.Secret)
		return
	}
	if h.Superseded {
		p.Superseded++
	}
	p.wake(state.replacement(h))
	p.publish(h, now)
}

func (p *Plan) wake(at time.Time) {
	if p.Next.IsZero() || at.Before(p.Next) {
		p.Next = at
	}
}

func (p *Plan) publish(h Held, now time.Time) {
	if now.Before(h.Certificate.Certificate.NotAfter) {
		p.Certificates = append(p.Certificates, h.Certificate)
	}
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
