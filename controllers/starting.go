package controllers

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
)

// findStarting finds the namespaces whose proxies have not been ready since they were enrolled. Others go
// on sending to their pods as before. That ends for good with the first proxy that is ready: when a
// namespace loses all of them, nothing is sent past them in plain text. Of the time before this leader the
// Deployments tell.
func (w *World) findStarting(ctx context.Context, namespaces []*corev1.Namespace) error {
	labelled := make(map[string]bool, len(namespaces))
	for _, ns := range namespaces {
		labelled[ns.Name] = ns.Labels[meshv1alpha1.EnabledLabel] == "true"
	}
	ready := w.ready
	if !w.opened {
		pods, err := cluster.Pods(ctx, w.Client)
		if err != nil {
			return err
		}
		ready = compile.ReadyProxies(pods, labelled, nil)
	}
	served := w.served()
	var before map[string]bool
	if served == nil {
		var err error
		if before, err = w.deployed(ctx); err != nil {
			return err
		}
	}
	joined, starting := map[string]bool{}, map[string]bool{}
	for namespace, enrolled := range labelled {
		switch {
		case len(ready[namespace]) > 0, before[namespace], w.joined[namespace] && served[namespace]:
			joined[namespace] = true
		case enrolled:
			starting[namespace] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.joined, w.starting = joined, starting
	return nil
}

// deployed returns the namespaces whose proxies have all been available at some time.
func (w *World) deployed(ctx context.Context) (map[string]bool, error) {
	var list appsv1.DeploymentList
	if err := w.Client.List(ctx, &list, client.MatchingLabels{meshv1alpha1.ComponentLabel: compile.ComponentProxy}); err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	deployed := map[string]bool{}
	for i := range list.Items {
		d := &list.Items[i]
		deployed[d.Namespace] = d.DeletionTimestamp == nil && (d.Status.AvailableReplicas > 0 || rolledOut(d))
	}
	return deployed, nil
}

// rolledOut tells that a Deployment has come to its end once, whatever became of its pods since.
func rolledOut(d *appsv1.Deployment) bool {
	return slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		// The reason is the Deployment controller's own.
		return c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable"
	})
}

// joining tells that a namespace is starting no more.
func (w *World) joining() bool {
	for namespace := range w.starting {
		if len(w.ready[namespace]) > 0 {
			return true
		}
	}
	return false
}
