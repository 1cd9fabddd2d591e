package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// bundleVersion is the annotation with which the Gateway API marks its CRDs.
const bundleVersion = "gateway.networking.k8s.io/bundle-version"

// needed are the resources that the operator watches and that others have to install: those of the Gateway
// API, and of Weft those that came after the first release, since an operator may have been updated without
// them.
var needed = []schema.GroupResource{
	{Group: gwv1.GroupName, Resource: "httproutes"},
	{Group: gwv1.GroupName, Resource: "grpcroutes"},
	{Group: meshv1alpha1.GroupVersion.Group, Resource: "meshpolicies"},
	{Group: meshv1alpha1.GroupVersion.Group, Resource: "meshauthorizations"},
}

// definitionKind is that of a CustomResourceDefinition.
var definitionKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// errInstalled ends the operator when everything is installed, so that it starts anew with its watches.
var errInstalled = errors.New("everything needed is installed now: starting anew")

// installed is what is known of the needed resources.
type installed struct {
	// missing names those that are not installed, or not in the version that is watched.
	missing []schema.GroupResource
	// version is the bundle of the Gateway API.
	version string
}

// missingOf names the missing resources of Weft or of the Gateway API.
func (i installed) missingOf(group string) []string {
	var names []string
	for _, m := range i.missing {
		if m.Group == group {
			names = append(names, m.Resource)
		}
	}
	return names
}

// outdated tells that the Gateway API is older than what Weft is built for. A version that is no version is
// somebody's own.
func (i installed) outdated() bool {
	have, err := version.ParseSemantic(i.version)
	return err == nil && have.LessThan(oldest)
}

// oldestName is the release of the Gateway API that Weft is built and tested with.
const oldestName = "v1.7.0"

var oldest = version.MustParseSemantic(oldestName)

func (i installed) equal(other installed) bool {
	return slices.Equal(i.missing, other.missing) && i.version == other.version
}

// findInstalled looks for the CRDs of what is needed, in the versions that are watched.
func findInstalled(ctx context.Context, r client.Reader) (installed, error) {
	var found installed
	for _, resource := range needed {
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(definitionKind)
		err := r.Get(ctx, types.NamespacedName{Name: resource.String()}, crd)
		switch {
		case apierrors.IsNotFound(err):
			found.missing = append(found.missing, resource)
			continue
		case err != nil:
			return installed{}, fmt.Errorf("look for %s: %w", resource, err)
		}
		watched := meshv1alpha1.GroupVersion.Version
		if resource.Group == gwv1.GroupName {
			watched, found.version = gwv1.GroupVersion.Version, crd.GetAnnotations()[bundleVersion]
		}
		if !serves(crd, watched) {
			found.missing = append(found.missing, resource)
		}
	}
	return found, nil
}

// serves tells whether a version of a CRD is served.
func serves(crd *unstructured.Unstructured, name string) bool {
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	return err == nil && slices.ContainsFunc(versions, func(v any) bool {
		of, ok := v.(map[string]any)
		return ok && of["name"] == name && of["served"] == true
	})
}

const (
	// missingInterval is how often what is missing is looked for, presentInterval how often what is there.
	missingInterval = 10 * time.Second
	presentInterval = time.Minute
)

// installation follows what is installed. Watching resources that do not exist would keep the manager's cache
// from ever being ready, so while something is missing only the Mesh is served, whose status says so.
type installation struct {
	reader client.Reader
	log    logr.Logger

	mu      sync.Mutex
	current installed
	news    chan struct{}
}

func newInstallation(reader client.Reader, log logr.Logger, found installed) *installation {
	i := &installation{reader: reader, log: log, current: found, news: make(chan struct{})}
	i.say()
	return i
}

// now returns what is installed.
func (i *installation) now() installed {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current
}

// Changed returns a channel that is closed when now answers otherwise.
func (i *installation) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.news
}

func (i *installation) say() {
	switch {
	case len(i.current.missing) > 0:
		i.log.Info("waiting for resources that are not installed, or not in the version that is needed", "missing", fmt.Sprint(i.current.missing))
	case i.current.outdated():
		i.log.Info("the Gateway API is older than what Weft is built for", "installed", i.current.version, "oldest", oldestName)
	}
}

// Start returns errInstalled when nothing is missing any more.
func (i *installation) Start(ctx context.Context) error {
	interval := presentInterval
	waiting := len(i.now().missing) > 0
	if waiting {
		interval = missingInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		found, err := findInstalled(ctx, i.reader)
		if err != nil {
			i.log.Error(err, "look for what is needed")
			continue
		}
		if waiting && len(found.missing) == 0 {
			return errInstalled
		}
		i.mu.Lock()
		if !found.equal(i.current) {
			i.current = found
			i.say()
			close(i.news)
			i.news = make(chan struct{})
		}
		i.mu.Unlock()
	}
}
