package controllers

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
)

// sources lists what wakes a World. Every kind leads to a topic and never to one object's own key, so
// that any number of events is one pass over the latest state of what they were about.
func (w *World) sources(c cache.Cache) []source.TypedSource[topic] {
	return []source.TypedSource[topic]{
		watch(c, &meshv1alpha1.Mesh{}, generationChanged[*meshv1alpha1.Mesh], topicConfig),
		watch(c, &corev1.Namespace{}, namespaceChanged, topicConfig),
		noting(w, c, kindService, &corev1.Service{}, serviceChanged),
		noting(w, c, kindHTTPRoute, &gwv1.HTTPRoute{}, specChanged[*gwv1.HTTPRoute](w, string(wire.RouteHTTP))),
		noting(w, c, kindGRPCRoute, &gwv1.GRPCRoute{}, specChanged[*gwv1.GRPCRoute](w, string(wire.RouteGRPC))),
		noting(w, c, kindPolicy, &meshv1alpha1.MeshPolicy{}, specChanged[*meshv1alpha1.MeshPolicy](w, status.KindPolicy)),
		noting(w, c, kindAuthorization, &meshv1alpha1.MeshAuthorization{}, specChanged[*meshv1alpha1.MeshAuthorization](w, status.KindAuthorization)),
		watch(c, &corev1.Pod{}, podChanged, topicPods),
		watch(c, &corev1.Node{}, nodeChanged, topicPods),
		source.TypedKind(c, &discoveryv1.EndpointSlice{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, slice *discoveryv1.EndpointSlice) []topic {
				w.noted.add(object{kindEndpointSlices, compile.SliceService(slice)})
				return []topic{{what: topicObjects}}
			})),
		source.TypedFunc[topic](w.watchHub),
		follow(w.TrustChanged, func() []topic { return []topic{{what: topicConfig}} }),
		follow(w.Keys.Changed, func() []topic { return []topic{{what: topicConfig}} }),
	}
}

// watch leads all events of a kind to one topic, except updates that do not matter.
func watch[T client.Object](c cache.Cache, kind T, matters func(before, after T) bool, leadsTo what) source.TypedSource[topic] {
	return source.TypedKind(c, kind,
		handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, T) []topic { return []topic{{what: leadsTo}} }),
		predicate.TypedFuncs[T]{UpdateFunc: func(e event.TypedUpdateEvent[T]) bool { return matters(e.ObjectOld, e.ObjectNew) }})
}

// noting notes the objects of all events of a kind, except updates that do not matter.
func noting[T client.Object](w *World, c cache.Cache, name kind, of T, matters func(before, after T) bool) source.TypedSource[topic] {
	return source.TypedKind(c, of,
		handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, o T) []topic {
			w.noted.add(object{name, client.ObjectKeyFromObject(o)})
			return []topic{{what: topicObjects}}
		}),
		predicate.TypedFuncs[T]{UpdateFunc: func(e event.TypedUpdateEvent[T]) bool { return matters(e.ObjectOld, e.ObjectNew) }})
}

// watchHub wakes the World when clients come, go, acknowledge or report.
func (w *World) watchHub(ctx context.Context, queue workqueue.TypedRateLimitingInterface[topic]) error {
	go func() {
		for {
			changed := w.Hub.Changed()
			queue.Add(topic{what: topicAcks})
			select {
			case <-ctx.Done():
				return
			case <-w.woken:
				queue.Add(topic{what: topicPods})
			case <-changed:
			}
		}
	}()
	return nil
}

// NodesReported wakes the World after node agents have reported pods. It never blocks.
func (w *World) NodesReported() { w.wake() }

// wake has pods looked at.
func (w *World) wake() {
	select {
	case w.woken <- struct{}{}:
	default: // a wake-up is pending already
	}
}

func generationChanged[T client.Object](before, after T) bool {
	return before.GetGeneration() != after.GetGeneration() || deletionChanged(before, after)
}

func deletionChanged(before, after client.Object) bool {
	return (before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil)
}

func namespaceChanged(before, after *corev1.Namespace) bool {
	return !maps.Equal(before.Labels, after.Labels) || before.Status.Phase != after.Status.Phase || deletionChanged(before, after)
}

func serviceChanged(before, after *corev1.Service) bool {
	return !maps.Equal(before.Labels, after.Labels) || deletionChanged(before, after) ||
		!equality.Semantic.DeepEqual(before.Spec, after.Spec)
}

// specChanged tells whether a pass is due. A change of the status alone concerns the status writer.
func specChanged[T client.Object](w *World, kind string) func(before, after T) bool {
	return func(before, after T) bool {
		if generationChanged(before, after) {
			return true
		}
		w.Status.Observed(kind, client.ObjectKeyFromObject(after))
		return false
	}
}

func podChanged(before, after *corev1.Pod) bool {
	return !maps.Equal(before.Labels, after.Labels) || deletionChanged(before, after) ||
		before.Spec.NodeName != after.Spec.NodeName || !equality.Semantic.DeepEqual(before.Status, after.Status)
}

func nodeChanged(before, after *corev1.Node) bool {
	return !maps.Equal(before.Labels, after.Labels) || before.Spec.Unschedulable != after.Spec.Unschedulable
}
