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
)

// bundleVersion is the annotation with which the Gateway API marks its CRDs.
const bundleVersion = "gateway.networking.k8s.io/bundle-version"

// needed are the Gateway API resources that the operator watches.
var needed = []string{"httproutes", "grpcroutes"}

// errInstalled ends the operator when the Gateway API has been installed, so that it starts anew with
// its watches.
var errInstalled = errors.New("the Gateway API is installed now: starting anew")

// findGatewayAPI looks for the Gateway API's CRDs.
func findGatewayAPI(ctx context.Context, r client.Reader) (gatewayAPI, error) {
	var found gatewayAPI
	for _, resource := range needed {
		crd := &metav1.PartialObjectMetadata{}
		crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
		err := r.Get(ctx, types.NamespacedName{Name: resource + "." + gwv1.GroupName}, crd)
		switch {
		case apierrors.IsNotFound(err):
			found.missing = append(found.missing, resource)
		case err != nil:
			return gatewayAPI{}, fmt.Errorf("look for the Gateway API: %w", err)
		default:
			found.version = crd.Annotations[bundleVersion]
		}
	}
	return found, nil
}

// installation waits until the Gateway API is installed. Watching resources that do not exist would
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
		found, err := findGatewayAPI(ctx, i.reader)
		switch {
		case err != nil:
			i.log.Error(err, "look for the Gateway API")
		case len(found.missing) == 0:
			return errInstalled
		}
	}
}
