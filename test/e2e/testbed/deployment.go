package testbed

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/e2e/traffic"
)

// leaveTime is what a pod of a Deployment goes on for after it was told to end, as the applications of careful people do:
// whoever calls it may learn later than the pod that it ends.
const leaveTime = 5

// Deploy makes a Deployment of an app and waits until all its replicas are available. It lives as long as the test.
func (b *Bed) Deploy(t testing.TB, namespace string, app App, replicas int32) *appsv1.Deployment {
	t.Helper()
	pod := b.Object(namespace, app, "serve")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.TerminationGracePeriodSeconds = new(int64(6 * leaveTime))
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(traffic.ControlPort)}},
		PeriodSeconds: 1,
	}
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: leaveTime}}}
	d := &appsv1.Deployment{ObjectMeta: objectMeta(namespace, app.Name)}
	d.Spec = appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app.Name}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: new(intstr.FromInt32(0)), MaxSurge: new(intstr.FromInt32(1)),
		}},
	}
	b.Create(t, d)
	b.RolledOut(t, d)
	return d
}

// Restart does what `kubectl rollout restart` does.
func (b *Bed) Restart(t testing.TB, d *appsv1.Deployment) {
	t.Helper()
	Update(t, b, d, func(d *appsv1.Deployment) { Restarted(&d.Spec.Template) })
}

// Restarted sets the annotation that `kubectl rollout restart` does.
func Restarted(template *corev1.PodTemplateSpec) {
	if template.Annotations == nil {
		template.Annotations = map[string]string{}
	}
	template.Annotations["kubectl.kubernetes.io/restartedAt"] = time.Now().Format(time.RFC3339Nano)
}

// RolledOut waits until a Deployment has come to its present generation and the pods of earlier ones have ended, and
// returns its pods.
func (b *Bed) RolledOut(t testing.TB, d *appsv1.Deployment) []*Pod {
	t.Helper()
	var pods []*Pod
	Eventually(t, func(ctx context.Context) error {
		if err := b.Client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration != d.Generation || s.UpdatedReplicas != *d.Spec.Replicas || s.AvailableReplicas != *d.Spec.Replicas ||
			s.Replicas != *d.Spec.Replicas {
			return fmt.Errorf("deployment %s/%s is not rolled out: %+v", d.Namespace, d.Name, s)
		}
		var list corev1.PodList
		if err := b.Client.List(ctx, &list, client.InNamespace(d.Namespace), client.MatchingLabels(d.Spec.Selector.MatchLabels)); err != nil {
			return err
		}
		if n := len(list.Items); n != int(*d.Spec.Replicas) {
			return fmt.Errorf("deployment %s/%s has %d pods, those that end among them", d.Namespace, d.Name, n)
		}
		pods = nil
		for i := range list.Items {
			pods = append(pods, b.pod(&list.Items[i]))
		}
		return nil
	})
	return pods
}
