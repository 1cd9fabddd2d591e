package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
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
	// missing names those that are not installed.
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

// findInstalled looks for the CRDs of what is needed.
func findInstalled(ctx context.Context, r client.Reader) (installed, error) {
	var found installed
	for _, resource := range needed {
		crd := &metav1.PartialObjectMetadata{}
		crd.SetGroupVersionKind(definitionKind)
		err := r.Get(ctx, types.NamespacedName{Name: resource.String()}, crd)
		switch {
		case apierrors.IsNotFound(err):
			found.missing = append(found.missing, resource)
		case err != nil:
			return installed{}, fmt.Errorf("look for %s: %w", resource, err)
		case resource.Group == gwv1.GroupName:
			found.version = crd.Annotations[bundleVersion]
		}
	}
	return found, nil
}

// installation waits until everything needed is installed. Watching resources that do not exist would
// keep the manager's cache from ever being ready, so until then only the Mesh is served, whose status
// says what is missing.
type installation struct {
	reader client.Reader
	log    logr.Logger
}

// Start returns errInstalled when nothing is missing any more.
func (i *installation) Start(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		found, err := findInstalled(ctx, i.reader)
		switch {
		case err != nil:
			i.log.Error(err, "look for what is needed")
		case len(found.missing) == 0:
			return errInstalled
		}
	}
}
