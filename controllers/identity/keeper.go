package identity

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Keeper holds the authority in force and follows the Secret it is kept in. Every operator has one, since
// every one serves with certificates of it; the leader alone advances it. Safe for concurrent use.
type Keeper struct {
	client client.WithWatch
	key    types.NamespacedName
	now    func() time.Time

	// advancing is held during a write, so that one step follows from the one before.
	advancing sync.Mutex

	mu        sync.Mutex
	authority *Authority
	fault     error
	changed   chan struct{}
}

// OpenKeeper reads the authority that the Secret weft-ca in the namespace keeps, and makes one when there
// is no such Secret. One that exists and cannot be used is a MalformedCAError and left alone. Operators
// that start together agree on the one that was written first, for which c must not read from a cache.
func OpenKeeper(ctx context.Context, c client.WithWatch, namespace string, now func() time.Time) (*Keeper, error) {
	k := &Keeper{
		client: c, key: types.NamespacedName{Namespace: namespace, Name: CASecretName}, now: now,
		changed: make(chan struct{}),
	}
	var secret corev1.Secret
	err := c.Get(ctx, k.key, &secret)
	if apierrors.IsNotFound(err) {
		err = createCA(ctx, c, k.key, now(), &secret)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if k.authority, err = ParseAuthority(&secret); err != nil {
		return nil, &MalformedCAError{Secret: k.key, Err: err}
	}
	return k, nil
}

// Authority returns what is in force.
func (k *Keeper) Authority() *Authority {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.authority
}

// CA returns what issues and is trusted now.
func (k *Keeper) CA() *CA { return k.Authority().CA }

// Fault returns why the Secret is not what is in force; nil when it is.
func (k *Keeper) Fault() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fault
}

// Changed returns a channel that is closed when Authority or Fault change. To miss nothing, call it first,
// then ask, then wait.
func (k *Keeper) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// NeedLeaderElection is false: operators that do not lead serve the webhook.
func (k *Keeper) NeedLeaderElection() bool { return false }

// Start follows the Secret until ctx ends.
func (k *Keeper) Start(ctx context.Context) error {
	// RBAC accepts a list or watch of one name only with exactly this selector.
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, k.key.Name).String()
	options := func(o metav1.ListOptions) []client.ListOption {
		o.FieldSelector = selector
		return []client.ListOption{&client.ListOptions{Raw: &o}, client.InNamespace(k.key.Namespace)}
	}
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			var list corev1.SecretList
			err := k.client.List(ctx, &list, options(o)...)
			return &list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			return k.client.Watch(ctx, &corev1.SecretList{}, options(o)...)
		},
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(source, k.client),
		ObjectType:    &corev1.Secret{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { k.observe(o) },
			UpdateFunc: func(_, o any) { k.observe(o) },
			DeleteFunc: func(any) {
				k.put(nil, errors.New("the Secret was deleted; the authority stays in force until operators restart, restore the Secret before"))
			},
		},
	})
	informer.RunWithContext(ctx)
	return nil
}

// observe takes over what others wrote. What cannot be used, and what would cut off those who trust the
// authority in force, is a fault and changes nothing.
func (k *Keeper) observe(o any) {
	secret, ok := o.(*corev1.Secret)
	if !ok {
		return
	}
	now := k.Authority()
	if secret.UID == now.secret.UID && order(secret.ResourceVersion, now.secret.ResourceVersion) < 0 {
		return // an echo from before the last step
	}
	next, err := ParseAuthority(secret)
	if err == nil && !next.follows(now) {
		err = errors.New("the Secret was replaced by an authority that nobody trusts yet; the previous one stays in force, restore it")
	}
	if err != nil {
		k.put(nil, err)
		return
	}
	k.put(next, nil)
}

// put puts an authority in force, or only notes a fault when it is nil. An authority that says the same
// keeps its CA's pointer, by which others remember what they have checked.
func (k *Keeper) put(next *Authority, fault error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if next != nil {
		before := k.authority
		if next.CA.Bundle() == before.CA.Bundle() && next.CA.issuer.Equal(before.CA.issuer) {
			next.CA = before.CA
		}
		k.authority = next
	}
	k.fault = fault
	close(k.changed)
	k.changed = make(chan struct{})
}

// Advance takes the step that is due, if any, and returns it. The new state is in force only once the
// Secret has it, so that a later leader goes on from there; an error means that nothing was done, or that
// it is not known and Start will tell.
func (k *Keeper) Advance(ctx context.Context, e Evidence) (Step, error) {
	k.advancing.Lock()
	defer k.advancing.Unlock()
	if k.Fault() != nil {
		return None, nil // what would be written follows from something else than what is there
	}
	now := k.Authority()
	step := now.Decide(e, k.now())
	if step == None {
		return None, nil
	}
	secret, err := now.After(step, e, k.now())
	if err != nil {
		return None, fmt.Errorf("certificate authority: %s: %w", step, err)
	}
	if err := k.write(ctx, secret); err != nil {
		return None, fmt.Errorf("certificate authority: %s: %w", step, err)
	}
	return step, nil
}

// write puts in force what the Secret is to hold, once it does.
func (k *Keeper) write(ctx context.Context, secret *corev1.Secret) error {
	if err := k.client.Update(ctx, secret, client.FieldOwner(fieldOwner)); err != nil {
		return err
	}
	next, err := ParseAuthority(secret)
	if err != nil {
		return &MalformedCAError{Secret: k.key, Err: err}
	}
	k.put(next, nil)
	return nil
}
