package identity

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// watched mirrors our Secrets of one namespace. It is the store of a Reflector, which brings the
// changes of others; what the Issuer writes itself is put in at once, so that the result of a pass does
// not wait for its echo. Resource versions decide which of the two is newer.
type watched struct {
	wake   func()
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	secrets map[string]*corev1.Secret
	// inspected remembers Held by name, as long as Secret and CA are the same.
	inspected map[string]Held
	ca        *CA
}

// watch reads our Secrets of a namespace and follows them until stop is called. Reading once up front
// makes missing rights the caller's error, to be tried again at the caller's pace: a namespace's
// RoleBinding takes effect some time after it was written.
func watch(ctx context.Context, c client.WithWatch, namespace string, wake func()) (*watched, error) {
	var list corev1.SecretList
	if err := c.List(ctx, &list, client.InNamespace(namespace), ours); err != nil {
		return nil, fmt.Errorf("list certificates of namespace %s: %w", namespace, err)
	}
	w := &watched{
		wake:      wake,
		done:      make(chan struct{}),
		secrets:   map[string]*corev1.Secret{},
		inspected: map[string]Held{},
	}
	for n := range list.Items {
		w.secrets[list.Items[n].Name] = &list.Items[n]
	}
	options := func(o metav1.ListOptions) []client.ListOption {
		return []client.ListOption{&client.ListOptions{Raw: &o}, client.InNamespace(namespace), ours}
	}
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			var list corev1.SecretList
			err := c.List(ctx, &list, options(o)...)
			return &list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			return c.Watch(ctx, &corev1.SecretList{}, options(o)...)
		},
	}
	reflector := cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(source, c), &corev1.Secret{}, w,
		cache.ReflectorOptions{Name: "certificates of namespace " + namespace})
	// The watch outlives the pass that began it and ends with stop.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = cancel
	go func() {
		defer close(w.done)
		reflector.RunWithContext(running)
	}()
	return w, nil
}

// stop ends the watch and waits for it.
func (w *watched) stop() {
	w.cancel()
	<-w.done
}

// held returns what the Secrets hold.
func (w *watched) held(ca *CA) []Held {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ca != ca {
		w.ca = ca
		clear(w.inspected)
	}
	held := make([]Held, 0, len(w.secrets))
	for name, secret := range w.secrets {
		h, ok := w.inspected[name]
		if !ok {
			h = Inspect(ca, secret)
			w.inspected[name] = h
		}
		held = append(held, h)
	}
	return held
}

// owner returns the UID of the ServiceAccount that owns a Secret; empty when there is none.
func (w *watched) owner(name string) types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	if secret, ok := w.secrets[name]; ok {
		for _, owner := range secret.OwnerReferences {
			if owner.Kind == serviceAccountKind {
				return owner.UID
			}
		}
	}
	return ""
}

// put takes a Secret over unless a newer one is known, and tells whether it did.
func (w *watched) put(secret *corev1.Secret) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.secrets[secret.Name]; ok && order(secret.ResourceVersion, old.ResourceVersion) <= 0 {
		return false
	}
	w.secrets[secret.Name] = secret
	delete(w.inspected, secret.Name)
	return true
}

func (w *watched) drop(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.secrets, name)
	delete(w.inspected, name)
}

// Add implements cache.ReflectorStore.
func (w *watched) Add(obj any) error { return w.Update(obj) }

// Update implements cache.ReflectorStore.
func (w *watched) Update(obj any) error {
	secret, ok := obj.(*corev1.Secret)
	if !ok {
		return fmt.Errorf("%T is no Secret", obj)
	}
	if w.put(secret) {
		w.wake()
	}
	return nil
}

// Delete implements cache.ReflectorStore. The object carries the version of its deletion, also when it
// only lost our label.
func (w *watched) Delete(obj any) error {
	secret, ok := obj.(*corev1.Secret)
	if !ok {
		return fmt.Errorf("%T is no Secret", obj)
	}
	if w.dropUnlessNewer(secret.Name, secret.ResourceVersion) {
		w.wake()
	}
	return nil
}

// Replace implements cache.ReflectorStore: the list is all there was at the resource version. It may be
// older than what is here already, and without a version nothing can be said to be missing from it.
func (w *watched) Replace(list []any, version string) error {
	changed := false
	listed := map[string]bool{}
	for _, obj := range list {
		secret, ok := obj.(*corev1.Secret)
		if !ok {
			return fmt.Errorf("%T is no Secret", obj)
		}
		listed[secret.Name] = true
		changed = w.put(secret) || changed
	}
	for _, name := range w.names() {
		if !listed[name] && version != "" {
			changed = w.dropUnlessNewer(name, version) || changed
		}
	}
	if changed {
		w.wake()
	}
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing behind the store to be told again.
func (w *watched) Resync() error { return nil }

func (w *watched) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.secrets))
}

// dropUnlessNewer forgets a Secret that was gone at the resource version, unless it was written since.
func (w *watched) dropUnlessNewer(name, version string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, ok := w.secrets[name]
	if !ok || order(version, old.ResourceVersion) < 0 {
		return false
	}
	delete(w.secrets, name)
	delete(w.inspected, name)
	return true
}

// order compares resource versions like strings.Compare. Versions that cannot be compared count as
// later than any other, so that no change is lost.
func order(a, b string) int {
	result, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		return 1
	}
	return result
}

var _ cache.ReflectorStore = (*watched)(nil)
