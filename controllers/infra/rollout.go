package infra

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

const (
	// templateAnnotation of a Deployment is the Template that it was applied with. What the API server makes of
	// a pod template cannot be compared with what is wanted: it fills in defaults.
	templateAnnotation = meshv1alpha1.GroupName + "/template"
	// replacesAnnotation is the Template before that, if proxies ran with it at the time.
	replacesAnnotation = meshv1alpha1.GroupName + "/replaces"
)

// Template identifies the pods that Params make: equal ones are not replaced.
func Template(p Params) string {
	data, err := json.Marshal(template(p))
	if err != nil {
		panic(fmt.Sprintf("infra: the template of proxies does not marshal: %v", err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Deployed is what there is of a namespace's proxies.
type Deployed struct {
	// Template is what they are to run with; empty if an earlier release has not said. Replaces is what others ran
	// with when it was applied; empty if there were none.
	Template, Replaces string
	// Image is that of Template.
	Image string
	// Available proxies serve.
	Available int32
	// Replacing tells that there are proxies of an earlier Template, or may be.
	Replacing bool
	// Complete tells that as many as wanted are available, all of them of Template.
	Complete bool
	// Failed says why the Deployment's own controller has given up; empty if it has not.
	Failed string
}

// Deployed returns what there is of the proxies of all namespaces, by namespace.
func (a *Applier) Deployed(ctx context.Context) (map[string]Deployed, error) {
	var list appsv1.DeploymentList
	if err := a.Client.List(ctx, &list, ours); err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	out := make(map[string]Deployed, len(list.Items))
	for i := range list.Items {
		if d := &list.Items[i]; d.DeletionTimestamp == nil {
			out[d.Namespace] = deployedOf(d)
		}
	}
	return out, nil
}

// DeployedIn returns what there is of the proxies of one namespace; there is nothing if it is not ok.
func (a *Applier) DeployedIn(ctx context.Context, namespace string) (d Deployed, ok bool, err error) {
	there := &appsv1.Deployment{}
	err = a.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: meshv1alpha1.ProxyName}, there)
	if err != nil || there.DeletionTimestamp != nil {
		return Deployed{}, false, client.IgnoreNotFound(err)
	}
	return deployedOf(there), true, nil
}

// deployedOf reads a Deployment as "kubectl rollout status" does.
func deployedOf(d *appsv1.Deployment) Deployed {
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	out := Deployed{
		Template: d.Annotations[templateAnnotation], Replaces: d.Annotations[replacesAnnotation], Available: d.Status.AvailableReplicas,
	}
	if containers := d.Spec.Template.Spec.Containers; len(containers) > 0 {
		out.Image = containers[0].Image
	}
	observed := d.Status.ObservedGeneration >= d.Generation
	out.Replacing = !observed && out.Replaces != "" || d.Status.Replicas > d.Status.UpdatedReplicas
	out.Complete = observed && !out.Replacing && d.Status.UpdatedReplicas >= wanted && d.Status.AvailableReplicas >= wanted
	at := slices.IndexFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing })
	// The reason is the Deployment controller's own.
	if at >= 0 && observed && d.Status.Conditions[at].Reason == "ProgressDeadlineExceeded" {
		out.Failed = d.Status.Conditions[at].Message
	}
	return out
}
