// Package testbed is what the end-to-end tests and benches stand on: the connection to the local cluster,
// namespaces and pods of their own in it, and the clients inside those pods. It fails the test that asks
// for what cannot be had; what the mesh does is judged elsewhere.
package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

const (
	// SystemNamespace is where Weft runs.
	SystemNamespace = "weft-system"
	// runLabel names on each namespace the run that made it, so that it is known what to clear away.
	runLabel = "e2e.weft.dev/run"
	// longest is how long a run may take: namespaces that are older have been left behind by one that was
	// killed.
	longest = 30 * time.Minute
	// Patience is how long anything may take that is not itself the subject of a test.
	Patience = 2 * time.Minute
	// pollInterval is the time between two looks.
	pollInterval = 50 * time.Millisecond
)

// Bed is a connection to a cluster on which Weft is installed.
type Bed struct {
	Client    client.WithWatch
	Clientset kubernetes.Interface
	// image is the app's, run is a name of this run alone.
	image, run string
	root       string
	config     *rest.Config
}

// Connect builds the app into the cluster and removes what earlier runs left. root is the checkout.
func Connect(ctx context.Context, root string) (*Bed, error) {
	kubeconfig := os.Getenv("KUBECONFIG")
	if kubeconfig == "" {
		kubeconfig = filepath.Join(root, "build", "cluster", "kubeconfig")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, gwv1.Install, meshv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("scheme: %w", err)
		}
	}
	b := &Bed{root: root, run: rand.String(8), config: config}
	if b.Client, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if b.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if err := b.load(ctx); err != nil {
		return nil, err
	}
	return b, b.clear(ctx, client.HasLabels{runLabel}, longest)
}

// load builds the app and loads its image.
func (b *Bed) load(ctx context.Context) (err error) {
	b.image, err = b.build(ctx, ".", "./test/e2e/app", "e2e-app", "-trimpath", "-ldflags=-s -w")
	return err
}

// build builds a program of a module of the checkout and loads its image, whose name it returns. The tag is the binary's
// hash, so that what runs is what is here. Flags with which others have built most of it already save minutes.
func (b *Bed) build(ctx context.Context, module, program, name string, flags ...string) (string, error) {
	binary, archive := filepath.Join("bin", name), filepath.Join("build", "images", name+".tar")
	path, err := filepath.Abs(filepath.Join(b.root, binary))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	args := append([]string{"build", "-C", module, "-buildvcs=false", "-o", path}, flags...)
	if err := b.goCommand(ctx, append(args, program)...); err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	sum := sha256.Sum256(data)
	image := "weft-" + name + ":" + hex.EncodeToString(sum[:6])
	if err := b.goCommand(ctx, "run", "./test/cluster", "image", "-tag", image, "-binary", binary, "-out", archive); err != nil {
		return "", err
	}
	return image, b.goCommand(ctx, "run", "./test/cluster", "load", archive)
}

// goCommand runs the go command in the checkout.
func (b *Bed) goCommand(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return nil
}

// Cluster runs a verb of the local cluster's command.
func (b *Bed) Cluster(ctx context.Context, args ...string) error {
	return b.goCommand(ctx, append([]string{"run", "./test/cluster"}, args...)...)
}

// Clear removes the namespaces of this run and waits until they are gone.
func (b *Bed) Clear(ctx context.Context) error {
	return b.clear(ctx, client.MatchingLabels{runLabel: b.run}, 0)
}

// clear removes the namespaces that match and are older than age, and waits until they are gone.
func (b *Bed) clear(ctx context.Context, match client.ListOption, age time.Duration) error {
	for {
		var list corev1.NamespaceList
		if err := b.Client.List(ctx, &list, match); err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
		left := 0
		for i := range list.Items {
			ns := &list.Items[i]
			if time.Since(ns.CreationTimestamp.Time) < age {
				continue
			}
			left++
			if ns.DeletionTimestamp != nil {
				continue
			}
			if err := b.Client.Delete(ctx, ns); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("delete namespace: %w", err)
			}
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Eventually calls check until it returns nil, and fails the test with its last error after Patience.
func Eventually(t testing.TB, check func(ctx context.Context) error) {
	t.Helper()
	if err := Poll(t.Context(), check); err != nil {
		t.Fatal(err)
	}
}

// Poll calls check until it returns nil, and returns its last error after Patience.
func Poll(ctx context.Context, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if pause(ctx) != nil {
			return fmt.Errorf("after %s: %w", Patience, last)
		}
	}
}

// Namespace makes a namespace that lives as long as the test, enrolled or not.
func (b *Bed) Namespace(t testing.TB, enrolled bool) string {
	t.Helper()
	name, err := b.MakeNamespace(t.Context(), t.Name(), enrolled)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.remove(t, &corev1.Namespace{ObjectMeta: objectMeta("", name)}) })
	return name
}

// MakeNamespace makes a namespace for whoever removes it; the next run does in any case.
func (b *Bed) MakeNamespace(ctx context.Context, what string, enrolled bool) (string, error) {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimPrefix(what, "Test")))
	ns := &corev1.Namespace{ObjectMeta: objectMeta("", fmt.Sprintf("e2e-%.40s-%s", clean, rand.String(4)))}
	ns.Labels = map[string]string{runLabel: b.run}
	if enrolled {
		ns.Labels[meshv1alpha1.EnabledLabel] = "true"
	}
	if err := b.Client.Create(ctx, ns); err != nil {
		return "", fmt.Errorf("create namespace: %w", err)
	}
	return ns.Name, nil
}

// Create creates objects that live as long as the test.
func (b *Bed) Create(t testing.TB, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := b.Client.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T: %v", o, err)
		}
		b.Adopt(t, o)
	}
}

// Adopt has objects that somebody else has created live as long as the test.
func (b *Bed) Adopt(t testing.TB, objects ...client.Object) {
	for _, o := range objects {
		t.Cleanup(func() { b.remove(t, o) })
	}
}

// remove deletes an object after the test's own context has ended.
func (b *Bed) remove(t testing.TB, o client.Object) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := b.Client.Delete(ctx, o, client.GracePeriodSeconds(1)); client.IgnoreNotFound(err) != nil {
		t.Errorf("delete %T %s: %v", o, o.GetName(), err)
	}
}

// Update reads an object, changes it and writes it, again and again where somebody else was quicker.
func Update[T client.Object](t testing.TB, b *Bed, o T, change func(T)) {
	t.Helper()
	for {
		if err := b.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatalf("get %T: %v", o, err)
		}
		change(o)
		switch err := b.Client.Update(t.Context(), o); {
		case err == nil:
			return
		case !apierrors.IsConflict(err):
			t.Fatalf("update %T: %v", o, err)
		}
	}
}

// Await reads an object until what is wrong with it is nothing.
func Await[T client.Object](t testing.TB, b *Bed, o T, wrong func(T) string) {
	t.Helper()
	Eventually(t, func(ctx context.Context) error {
		if err := b.Client.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		if w := wrong(o); w != "" {
			return fmt.Errorf("%T %s/%s: %s", o, o.GetNamespace(), o.GetName(), w)
		}
		return nil
	})
}
