package controllers

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/wire"
)

const (
	// plainLately is how long a caller past the mesh is shown after its last connection.
	plainLately = time.Hour
	// plainTop and plainNamespaces bound what the status of the Mesh shows, as the API does.
	plainTop        = 10
	plainNamespaces = 1000
)

// Verdicts about connections past the mesh.
const (
	// plainPermitted: the port is not strict, and would refuse the caller if it were.
	plainPermitted = "permitted"
	// plainAllowed: the caller is one that the port lets in when it is strict.
	plainAllowed = "allowed"
	plainRefused = "refused"
)

// plainCall is what one caller past the mesh has done to one Service port.
type plainCall struct {
	at compile.ServicePort
	// caller is a pod as "namespace/name", an address, or the word for those without room of their own.
	// account is the pod's ServiceAccount.
	caller  string
	account types.NamespacedName
	// allowed tells that a strict port lets the caller in.
	allowed              bool
	connections, refused uint64
	last                 time.Time
}

// String names the caller in messages.
func (c *plainCall) String() string {
	if c.account.Name == "" {
		return c.caller
	}
	return "pod " + c.caller + " (ServiceAccount " + c.account.Name + ")"
}

// plainOthers stands for callers that have no room of their own.
const plainOthers = "others"

// plainCounter counts connections past the mesh. It is used by one goroutine.
type plainCounter struct {
	connections *prometheus.CounterVec
	// counted is what each entry had when it was counted last.
	counted map[plainEntry]wire.PlainCaller
}

type plainEntry struct {
	node string
	wire.PlainKey
}

func newPlainCounter() *plainCounter {
	return &plainCounter{connections: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_plain_connections_total",
		Help: "Connections to ports that Services publish that came past the mesh, by what was done with them. Known to the leader alone.",
	}, []string{
		attribute.Label(attribute.DestinationNamespace), attribute.Label(attribute.DestinationService),
		attribute.Label(attribute.SourceNamespace), attribute.Label(attribute.SourceAccount), "verdict",
	})}
}

// take finds out who and what the entries of node agents are, and counts what is new. Agents are believed for
// pods of their own nodes alone.
func (p *plainCounter) take(nodes map[string]distribute.NodeState, pods []*corev1.Pod, exposures map[string][]compile.Exposure) []plainCall {
	next := make(map[plainEntry]wire.PlainCaller)
	calls := make(map[string]*plainCall)
	var byUID map[string]*corev1.Pod
	var claimed map[netip.Addr]*corev1.Pod
	for name, node := range nodes {
		for key, entry := range node.Plain {
			if byUID == nil {
				claimed, byUID = compile.Claimed(pods, sandboxes(nodes)), make(map[string]*corev1.Pod, len(pods))
				for _, pod := range pods {
					byUID[string(pod.UID)] = pod
				}
			}
			called := byUID[key.UID]
			if called == nil || called.Spec.NodeName != name {
				continue
			}
			for _, e := range exposures[called.Namespace] {
				if port, ok := e.PortOf(called); !ok || port != key.Port {
					continue
				}
				call := plainCall{at: e.ServicePort, caller: plainOthers, connections: entry.Connections, refused: entry.Refused, last: entry.Last}
				call.identify(key.Source, claimed[key.Source.Unmap()], &e)
				at := plainEntry{name, key}
				p.count(&call, p.counted[at])
				next[at] = entry
				if sum := calls[call.at.Key()+" "+call.caller]; sum != nil {
					sum.connections, sum.refused = sum.connections+call.connections, sum.refused+call.refused
					if call.last.After(sum.last) {
						sum.last = call.last
					}
				} else {
					calls[call.at.Key()+" "+call.caller] = &call
				}
				break // of several Services that publish one port the first stands for all
			}
		}
	}
	p.counted = next
	out := make([]plainCall, 0, len(calls))
	for _, call := range calls {
		out = append(out, *call)
	}
	slices.SortFunc(out, func(a, b plainCall) int {
		return cmp.Or(cmp.Compare(a.at.Namespace, b.at.Namespace), cmp.Compare(b.connections+b.refused, a.connections+a.refused),
			cmp.Compare(a.caller, b.caller), cmp.Compare(a.at.Key(), b.at.Key()))
	})
	return out
}

func (c *plainCall) identify(source netip.Addr, pod *corev1.Pod, e *compile.Exposure) {
	if source.IsValid() {
		c.caller = source.Unmap().String()
	}
	if pod != nil {
		c.caller = pod.Namespace + "/" + pod.Name
		c.account = types.NamespacedName{Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName}
	}
	c.allowed = slices.ContainsFunc(e.Allowed, func(p netip.Prefix) bool { return p.Contains(source.Unmap()) }) ||
		c.account.Name != "" && slices.Contains(e.Accounts, c.account)
}

// count adds what a call has more than it had before. An agent that has started again counts from zero.
func (p *plainCounter) count(c *plainCall, before wire.PlainCaller) {
	more := func(now, before uint64) float64 {
		if now < before {
			return float64(now)
		}
		return float64(now - before)
	}
	letIn := plainPermitted
	if c.allowed {
		letIn = plainAllowed
	}
	for verdict, n := range map[string]float64{letIn: more(c.connections, before.Connections), plainRefused: more(c.refused, before.Refused)} {
		if n > 0 {
			p.connections.WithLabelValues(c.at.Namespace, c.at.Service, c.account.Namespace, c.account.Name, verdict).Add(n)
		}
	}
}

// lately leaves of calls those that were made within the last hour and that strict ports do not let in.
func lately(calls []plainCall, now time.Time) []plainCall {
	return slices.DeleteFunc(calls, func(c plainCall) bool { return c.allowed || now.Sub(c.last) > plainLately })
}

// plainStatus shows calls, which are sorted, in the status of the Mesh.
func plainStatus(calls []plainCall) []meshv1alpha1.NamespacePlainCallers {
	var out []meshv1alpha1.NamespacePlainCallers
	for i := range calls {
		c := &calls[i]
		if len(out) == 0 || out[len(out)-1].Namespace != c.at.Namespace {
			if len(out) == plainNamespaces {
				break
			}
			out = append(out, meshv1alpha1.NamespacePlainCallers{Namespace: c.at.Namespace, Callers: new(int32)})
		}
		in := &out[len(out)-1]
		*in.Callers++
		if len(in.Top) < plainTop {
			last := metav1.NewTime(c.last.Truncate(time.Second))
			in.Top = append(in.Top, meshv1alpha1.PlainCaller{
				Caller: c.caller, ServiceAccount: c.account.Name, Service: c.at.String(),
				Connections: new(int64(c.connections)), Refused: new(int64(c.refused)), LastSeen: &last,
			})
		}
	}
	return out
}

// plainCallers is the condition about calls, which are sorted.
func plainCallers(calls []plainCall) metav1.Condition {
	if len(calls) == 0 {
		return metav1.Condition{Type: meshv1alpha1.MeshPlainCallers, Status: metav1.ConditionFalse, Reason: "NoneSeen",
			Message: "no node agent has seen a caller come past the mesh within the last hour"}
	}
	named := make([]string, 0, len(calls))
	for i := range calls {
		named = append(named, calls[i].String()+" to "+calls[i].at.Namespace+"/"+calls[i].at.String())
	}
	return metav1.Condition{Type: meshv1alpha1.MeshPlainCallers, Status: metav1.ConditionTrue, Reason: "Seen",
		Message: truncate(fmt.Sprintf("%d came past the mesh within the last hour, and strict ports refuse them: %s; see status.plainCallers",
			len(calls), some(named)))}
}

// withoutPlainCounts is a status without what changes with every connection past the mesh.
func withoutPlainCounts(s *meshv1alpha1.MeshStatus) *meshv1alpha1.MeshStatus {
	s = s.DeepCopy()
	for i := range s.PlainCallers {
		for j := range s.PlainCallers[i].Top {
			top := &s.PlainCallers[i].Top[j]
			top.Connections, top.Refused, top.LastSeen = nil, nil, nil
		}
		slices.SortFunc(s.PlainCallers[i].Top, func(a, b meshv1alpha1.PlainCaller) int {
			return cmp.Or(strings.Compare(a.Caller, b.Caller), strings.Compare(a.Service, b.Service))
		})
	}
	return s
}

// SetPlain takes who was seen lately to call which ports past the mesh, for the conditions of what makes them
// strict.
func (w *World) SetPlain(calls []plainCall) {
	next := make(map[compile.ServicePort][]string)
	for i := range calls {
		next[calls[i].at] = append(next[calls[i].at], calls[i].String())
	}
	for _, names := range next {
		slices.Sort(names)
	}
	w.mu.Lock()
	before := w.plain
	w.plain = next
	w.mu.Unlock()
	w.enforcementChanged(differing(before, next, slices.Equal[[]string]))
}
