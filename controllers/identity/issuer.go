package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// parallel bounds the requests to the API server that are under way at a time.
const parallel = 8

// Certificates that can wait are replaced so many in a second, and looked after so often: an exchange of the
// root concerns all of them, and those that cannot wait come first.
const (
	replacedPerSecond = 100
	paceInterval      = 250 * time.Millisecond
	paceBurst         = replacedPerSecond * int(paceInterval) / int(time.Second)
)

// Issuer keeps the Secrets of enrolled namespaces as Desired wants them. It reads Secrets only in the
// namespaces it is told of and only those with our label, because the operator's rights to Secrets end
// there: RBAC cannot grant "list by label", so a watch of the whole cluster would need to read every
// Secret of it.
//
// Reconcile and Remove must not run at the same time; Close ends the watches.
type Issuer struct {
	// Client must talk to the API server directly, not to a cache.
	Client client.WithWatch
	// Now is the clock.
	Now func() time.Time
	// Wake is called, on a goroutine of a watch, when Secrets changed by other hands than the
	// Issuer's and Reconcile should run again. It must not block.
	Wake func()

	namespaces map[string]*watched
	pace       *rate.Limiter
}

// Result is what a pass of the Issuer came to.
type Result struct {
	// Certificates of all namespaces, sorted by key, each in the scope of its namespace. They are what
	// Secrets hold: nothing is published that a later leader would not find.
	Certificates []wire.Resource
	// Superseded counts those among Certificates that an earlier authority signed.
	Superseded int
	// RequeueAfter is the time until the next certificate is due; zero when none is.
	RequeueAfter time.Duration
	// Issued and Deleted tell what the pass has done.
	Issued  []Request
	Deleted []types.NamespacedName
}

// Reconcile issues, renews and deletes certificates. The error joins one for every Secret or namespace
// that failed; the rest of the result holds all the same, and trying again is safe.
func (i *Issuer) Reconcile(ctx context.Context, state State) (Result, error) {
	errs := i.follow(ctx, state.Namespaces)
	state.Namespaces = slices.DeleteFunc(slices.Clone(state.Namespaces), func(namespace string) bool {
		_, ok := i.namespaces[namespace]
		return !ok // unread: what its Secrets hold is unknown, so nothing may be issued over them
	})

	var result Result
	var mu sync.Mutex
	plan := Desired(state, i.held(state.CA), i.Now())
	issue := i.paced(plan.Issue)
	each(issue, func(request Request) {
		err := i.issue(ctx, state, request)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			result.Issued = append(result.Issued, request)
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			errs = append(errs, fmt.Errorf("secret %s for %s: %w", request.Secret, request.ID, err))
		}
	})
	each(plan.Delete, func(key types.NamespacedName) {
		err := i.delete(ctx, key)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("secret %s: %w", key, err))
			return
		}
		result.Deleted = append(result.Deleted, key)
	})
	slices.SortFunc(result.Issued, func(a, b Request) int { return compareNames(a.Secret, b.Secret) })
	slices.SortFunc(result.Deleted, compareNames)

	now := i.Now()
	after := Desired(state, i.held(state.CA), now)
	result.Certificates, result.Superseded = after.Certificates, after.Superseded
	if !after.Next.IsZero() {
		result.RequeueAfter = max(after.Next.Sub(now), time.Millisecond)
	}
	if len(issue) < len(plan.Issue) && (result.RequeueAfter == 0 || result.RequeueAfter > paceInterval) {
		result.RequeueAfter = paceInterval
	}
	return result, errors.Join(errs...)
}

// paced returns the requests that are to be served in this pass.
func (i *Issuer) paced(requests []Request) []Request {
	if i.pace == nil {
		i.pace = rate.NewLimiter(replacedPerSecond, paceBurst)
	}
	now := i.Now()
	return slices.DeleteFunc(slices.Clone(requests), func(r Request) bool { return r.CanWait && !i.pace.AllowN(now, 1) })
}

// Remove deletes our Secrets of a namespace that has left the mesh and whose proxies have drained.
// Reconcile must no longer be given the namespace.
func (i *Issuer) Remove(ctx context.Context, namespace string) error {
	i.forget(namespace)
	var list corev1.SecretList
	if err := i.Client.List(ctx, &list, client.InNamespace(namespace), ours); err != nil {
		return fmt.Errorf("list certificates of namespace %s: %w", namespace, err)
	}
	var errs []error
	for n := range list.Items {
		if err := client.IgnoreNotFound(i.Client.Delete(ctx, &list.Items[n])); err != nil {
			errs = append(errs, fmt.Errorf("secret %s/%s: %w", namespace, list.Items[n].Name, err))
		}
	}
	return errors.Join(errs...)
}

// Close ends all watches and waits for them.
func (i *Issuer) Close() {
	for namespace := range i.namespaces {
		i.forget(namespace)
	}
}

// ours selects the Secrets this package may touch.
var ours = client.MatchingLabels{meshv1alpha1.ComponentLabel: Component}

// follow begins to watch namespaces it is told of for the first time, and ends the watches of others.
func (i *Issuer) follow(ctx context.Context, namespaces []string) []error {
	if i.namespaces == nil {
		i.namespaces = map[string]*watched{}
	}
	for namespace := range i.namespaces {
		if !slices.Contains(namespaces, namespace) {
			i.forget(namespace)
		}
	}
	var fresh []string
	for _, namespace := range namespaces {
		if _, ok := i.namespaces[namespace]; !ok {
			fresh = append(fresh, namespace)
		}
	}
	var mu sync.Mutex
	var errs []error
	each(fresh, func(namespace string) {
		w, err := watch(ctx, i.Client, namespace, i.Wake)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
			return
		}
		i.namespaces[namespace] = w
	})
	return errs
}

func (i *Issuer) forget(namespace string) {
	if w, ok := i.namespaces[namespace]; ok {
		w.stop()
		delete(i.namespaces, namespace)
	}
}

// held returns what the Secrets of all namespaces hold.
func (i *Issuer) held(ca *CA) []Held {
	var held []Held
	for _, w := range i.namespaces {
		held = append(held, w.held(ca)...)
	}
	return held
}

// issue makes a certificate and writes it. A Secret that cannot be brought into shape (its type cannot
// be changed, or it was made immutable) is replaced.
func (i *Issuer) issue(ctx context.Context, state State, request Request) error {
	pair, err := state.CA.Issue(request.ID, state.Lifetime, i.Now())
	if err != nil {
		return err
	}
	owner, err := i.owner(ctx, request)
	if err != nil {
		return err
	}
	secret := applyConfiguration(request, pair, owner)
	apply := func() error {
		return i.Client.Apply(ctx, secret, client.FieldOwner(fieldOwner), client.ForceOwnership)
	}
	err = apply()
	if apierrors.IsInvalid(err) {
		if err := i.delete(ctx, request.Secret); err != nil {
			return err
		}
		err = apply()
	}
	if err != nil {
		return err
	}
	// The answer of the API server is in secret now, with the version that tells it from its echo.
	i.namespaces[request.Secret.Namespace].put(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       request.Secret.Namespace,
			Name:            request.Secret.Name,
			ResourceVersion: ptr.Deref(secret.ResourceVersion, ""),
			Labels:          secret.Labels,
			Annotations:     secret.Annotations,
			OwnerReferences: ownerReferences(owner),
		},
		Data: secret.Data,
	})
	return nil
}

// owner returns the UID of the ServiceAccount that the Secret goes with, or "": a pod outlives its account.
// A Secret that has an owner keeps it: were that another than the account of today, the garbage collector
// would have taken the Secret with it, and it would be made anew.
func (i *Issuer) owner(ctx context.Context, request Request) (types.UID, error) {
	if uid := i.namespaces[request.Secret.Namespace].owner(request.Secret.Name); uid != "" {
		return uid, nil
	}
	account := &metav1.PartialObjectMetadata{}
	account.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(serviceAccountKind))
	key := types.NamespacedName{Namespace: request.ID.Namespace, Name: request.ID.ServiceAccount}
	if err := i.Client.Get(ctx, key, account); err != nil {
		return "", client.IgnoreNotFound(err)
	}
	return account.UID, nil
}

func (i *Issuer) delete(ctx context.Context, key types.NamespacedName) error {
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = key.Namespace, key.Name
	if err := client.IgnoreNotFound(i.Client.Delete(ctx, secret)); err != nil {
		return err
	}
	i.namespaces[key.Namespace].drop(key.Name)
	return nil
}

// each calls do for every item, several at a time, and returns when all are done.
func each[T any](items []T, do func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	wg.Wait()
}
