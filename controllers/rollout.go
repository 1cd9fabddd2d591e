package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/proxy/wire"
)

// rollInterval is how often a roll that is under way is looked at when nothing wakes the operator.
const rollInterval = time.Second

// proxySet is what is known of the proxies of one enrolled namespace.
type proxySet struct {
	infra.Deployed
	// Acknowledged tells that all that are ready have acknowledged configuration of this operator.
	Acknowledged bool
	// Unfit tells that some cannot enforce what their namespace asks for, since they are of an earlier release.
	Unfit bool
}

// idle tells that nobody depends on the proxies: there is nothing to be careful with.
func (s proxySet) idle() bool { return s.Available == 0 && !s.Replacing }

// roll is how far all namespaces are on the way to one template.
type roll struct {
	// total counts the namespaces, current those whose proxies all run with the template.
	total, current int
	// replacing are the namespaces whose proxies are being replaced; no other has its turn meanwhile.
	replacing []string
	// next is the namespace whose turn it is now; empty if it is nobody's.
	next string
	// waiting are those that keep their proxies until it is their turn, next not among them.
	waiting []string
	// failed says why the Deployments of replacing namespaces do not get on, by namespace.
	failed map[string]string
}

// planRoll decides which namespace's proxies may be given the wanted template now. One is replaced after the
// other, each when the one before is complete, so that an image that does not work, or works badly, harms one
// namespace. First come those that are half replaced, with a template that is wanted no more; then those that
// cannot enforce what is asked of them; the others by name. A namespace that came with the template holds up
// nobody, whatever becomes of its proxies.
func planRoll(wanted string, sets map[string]proxySet) roll {
	r := roll{total: len(sets), failed: map[string]string{}}
	var settling []string
	for namespace, s := range sets {
		switch {
		case s.Template != wanted && s.idle(): // it is given them at once
		case s.Template != wanted:
			r.waiting = append(r.waiting, namespace)
		case s.Replacing:
			r.replacing = append(r.replacing, namespace)
		case s.Replaces != "" && (!s.Complete || !s.Acknowledged):
			settling = append(settling, namespace)
		default:
			r.current++
		}
	}
	// Once all have the template, proxies that are away are so for reasons of their own.
	if len(r.waiting) > 0 {
		r.replacing = append(r.replacing, settling...)
	} else {
		r.current += len(settling)
	}
	for _, namespace := range r.replacing {
		if why := sets[namespace].Failed; why != "" {
			r.failed[namespace] = why
		}
	}
	slices.Sort(r.replacing)
	urgency := func(namespace string) int {
		switch s := sets[namespace]; {
		case s.Replacing:
			return 0
		case s.Unfit:
			return 1
		}
		return 2
	}
	slices.SortFunc(r.waiting, func(a, b string) int { return cmp.Or(cmp.Compare(urgency(a), urgency(b)), cmp.Compare(a, b)) })
	if len(r.replacing) == 0 && len(r.waiting) > 0 {
		r.next, r.waiting = r.waiting[0], r.waiting[1:]
	}
	return r
}

// proxiesCurrent tells how far the proxies of all namespaces are on the way to the release that is wanted. Those of
// unfit namespaces do not enforce what is asked of them.
func proxiesCurrent(r roll, unfit []string, pods []*corev1.Pod) metav1.Condition {
	c := rollProgress(r, pods)
	if len(unfit) > 0 {
		if c.Status == metav1.ConditionTrue {
			c.Status, c.Reason = metav1.ConditionFalse, "Outdated"
		}
		c.Message += "; proxies of an earlier release do not enforce the MeshAuthorizations of " + truncate(strings.Join(unfit, ", ")) +
			" and are sent nothing: where there are no others, calls are refused"
	}
	return c
}

func rollProgress(r roll, pods []*corev1.Pod) metav1.Condition {
	c := metav1.Condition{Type: meshv1alpha1.MeshProxiesCurrent, Status: metav1.ConditionTrue, Reason: "Current",
		Message: "the proxies of every enrolled namespace are those that are wanted"}
	if r.next == "" && len(r.waiting) == 0 && len(r.replacing) == 0 {
		return c
	}
	c.Status, c.Reason = metav1.ConditionFalse, "Rolling"
	c.Message = fmt.Sprintf("%d of %d namespaces have the proxies that are wanted", r.current, r.total)
	if len(r.replacing) > 0 {
		c.Message += "; being replaced in " + truncate(strings.Join(r.replacing, ", "))
	}
	if waiting := len(r.waiting); waiting > 0 {
		c.Message += fmt.Sprintf("; %d wait for their turn", waiting)
	}
	var stuck []string
	for _, namespace := range r.replacing {
		if why := cmp.Or(r.failed[namespace], obstacle(namespace, pods)); why != "" {
			stuck = append(stuck, namespace+": "+why)
		}
	}
	if len(stuck) > 0 {
		c.Reason = meshv1alpha1.ReasonStuck
		c.Message += "; new proxies do not become ready in " + truncate(strings.Join(stuck, "; ")) +
			"; the old ones serve on, and no other namespace is touched: correct spec.proxy of the Mesh or install the release before, or see the pods of Deployment " +
			meshv1alpha1.ProxyName
	}
	return c
}

// obstacle says what keeps a proxy of a namespace from becoming ready, as far as its pod tells.
func obstacle(namespace string, pods []*corev1.Pod) string {
	for _, pod := range pods {
		if pod.Namespace != namespace || pod.Labels[meshv1alpha1.ComponentLabel] != compile.ComponentProxy || pod.DeletionTimestamp != nil {
			continue
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return fmt.Sprintf("pod %s: %s: %s", pod.Name, c.Reason, c.Message)
			}
		}
		for i := range pod.Status.ContainerStatuses {
			if w := pod.Status.ContainerStatuses[i].State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return fmt.Sprintf("pod %s: %s: %s", pod.Name, w.Reason, w.Message)
			}
		}
	}
	return ""
}

// roll gives the namespace whose turn it is its new proxies.
func (m *Members) roll(ctx context.Context) (reconcile.Result, error) {
	p, err := m.params(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	deployed, err := m.applier.Deployed(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	pods, err := cluster.Pods(ctx, m.client)
	if err != nil {
		return reconcile.Result{}, err
	}
	enrolled := m.world.memberships()
	acknowledged, unfit := m.world.acknowledgedIn(pods, enrolled), m.world.Unfit()
	sets := make(map[string]proxySet, len(enrolled))
	for namespace := range enrolled {
		if d, ok := deployed[namespace]; ok && namespace != m.opts.Namespace {
			sets[namespace] = proxySet{Deployed: d, Acknowledged: acknowledged[namespace], Unfit: slices.Contains(unfit, namespace)}
		}
	}
	plan := planRoll(infra.Template(p), sets)
	m.noteRoll(plan)
	if plan.next != "" {
		p.Replaces = cmp.Or(deployed[plan.next].Template, unknownTemplate)
		if err := m.applier.Apply(ctx, plan.next, m.objects(plan.next, p)); err != nil {
			return reconcile.Result{}, err
		}
		ctrl.LoggerFrom(ctx).Info("proxies are replaced", "namespace", plan.next, "image", p.Image, "before", deployed[plan.next].Image,
			"current", plan.current, "waiting", len(plan.waiting))
	}
	if plan.rolling() {
		return reconcile.Result{RequeueAfter: rollInterval}, nil
	}
	return reconcile.Result{}, nil
}

// unknownTemplate stands for the template of a release that did not say.
const unknownTemplate = "unknown"

// noteRoll keeps how far a roll is and tells those who follow it.
func (m *Members) noteRoll(now roll) {
	m.state.Lock()
	defer m.state.Unlock()
	if m.state.roll.same(now) {
		return
	}
	m.state.roll = now
	close(m.state.changed)
	m.state.changed = make(chan struct{})
}

// rolled returns how far the last roll is.
func (m *Members) rolled() roll {
	m.state.Lock()
	defer m.state.Unlock()
	return m.state.roll
}

// acknowledgedIn returns the namespaces all of whose ready proxies have acknowledged configuration of this
// operator.
func (w *World) acknowledgedIn(pods []*corev1.Pod, namespaces map[string]bool) map[string]bool {
	holds := map[[2]string]bool{}
	for _, c := range w.Hub.Clients() {
		holds[[2]string{c.Namespace, c.Pod}] = c.Seq > 0
	}
	out := map[string]bool{}
	for namespace, proxies := range compile.ReadyProxies(pods, namespaces, nil) {
		out[namespace] = !slices.ContainsFunc(proxies, func(p wire.Proxy) bool { return !holds[[2]string{namespace, p.Pod}] })
	}
	return out
}

// same tells that two rolls have come equally far.
func (r roll) same(other roll) bool {
	return r.total == other.total && r.current == other.current && r.next == other.next && slices.Equal(r.replacing, other.replacing) &&
		slices.Equal(r.waiting, other.waiting) && maps.Equal(r.failed, other.failed)
}

// rolling tells whether somebody's proxies are still to be replaced.
func (r roll) rolling() bool { return r.next != "" || len(r.replacing) > 0 || len(r.waiting) > 0 }
