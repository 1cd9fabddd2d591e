package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/config/node"
)

const (
	// deploymentName is the name of the operator's own Deployment.
	deploymentName = "weft-operator"
	// agentsInterval is how often the agents' DaemonSet is applied again, since somebody may have changed it.
	agentsInterval = 30 * time.Second
)

// Agents deploys the node agents where the installation does not: the Operator Lifecycle Manager installs no
// DaemonSets. The agents belong to the operator's Deployment and go with it.
type Agents struct {
	// Client talks to the API server directly.
	Client client.Client
	Log    logr.Logger
	// Namespace is the operator's own.
	Namespace string
	// Image of the agents.
	Image string
}

// NeedLeaderElection has the leader alone deploy: of two releases it is the one that is told to.
func (a *Agents) NeedLeaderElection() bool { return true }

// Start applies the DaemonSet until ctx ends.
func (a *Agents) Start(ctx context.Context) error {
	for ctx.Err() == nil {
		next := agentsInterval
		if err := a.apply(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error(err, "deploy the node agents")
			next = 3 * time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(next):
		}
	}
	return nil
}

func (a *Agents) apply(ctx context.Context) error {
	own := &appsv1.Deployment{}
	if err := a.Client.Get(ctx, types.NamespacedName{Namespace: a.Namespace, Name: deploymentName}, own); err != nil {
		return fmt.Errorf("find the operator's own deployment: %w", err)
	}
	wanted, err := agentsOf(own, a.Image)
	if err != nil {
		return err
	}
	return a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(wanted), fieldOwner, client.ForceOwnership)
}

// agentsOf returns the DaemonSet of the agents that belong to an operator's Deployment.
func agentsOf(own *appsv1.Deployment, image string) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(node.DaemonSet, &u.Object); err != nil {
		return nil, fmt.Errorf("manifest of the node agents: %w", err)
	}
	u.SetNamespace(own.Namespace)
	u.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment", Name: own.Name, UID: own.UID,
	}})
	if err := label(u, "metadata"); err != nil {
		return nil, err
	}
	if err := label(u, "spec", "template", "metadata"); err != nil {
		return nil, err
	}
	containers, _, err := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
	if err != nil {
		return nil, fmt.Errorf("manifest of the node agents: %w", err)
	}
	if len(containers) != 1 {
		return nil, fmt.Errorf("manifest of the node agents: %d containers, want one", len(containers))
	}
	container, ok := containers[0].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("manifest of the node agents: a container is %T", containers[0])
	}
	container["image"] = image
	return u, unstructured.SetNestedSlice(u.Object, containers, "spec", "template", "spec", "containers")
}

// label adds the labels of everything that Weft deploys itself to a field with metadata.
func label(u *unstructured.Unstructured, fields ...string) error {
	for name, value := range map[string]string{"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"} {
		if err := unstructured.SetNestedField(u.Object, value, slices.Concat(fields, []string{"labels", name})...); err != nil {
			return fmt.Errorf("manifest of the node agents: %w", err)
		}
	}
	return nil
}
