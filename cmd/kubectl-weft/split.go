package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
)

// fieldManager is the name under which fields are written.
const fieldManager = "kubectl-weft"

func (a *app) splitCommand() *cobra.Command {
	var set []string
	var rule string
	var watch bool
	window := 2 * time.Second
	cmd := &cobra.Command{
		Use: "split [NAMESPACE/]ROUTE", Short: "Show or change how a route splits requests among its backends",
		Long: `Show how an HTTPRoute or GRPCRoute splits requests among its backends, or change it with --set, which changes the cluster.

--set names backends, or what is behind the last dash of their names, with their shares in percent; backends that are
not named share the rest in proportion to the weights that they have. Only weights are written, and only if nobody
else has changed the route meanwhile. Then the command waits, for --timeout at most, until every ready proxy concerned
has acknowledged the change.

--watch shows again and again what proxies have counted since beside what is declared, until interrupted. The interval is where
the true share lies with 95 % confidence; one that does not hold the declared share is marked.`,
		Example: `  kubectl weft split shop/cart
  kubectl weft split shop/cart --set v2=20 --watch
  kubectl weft split shop/cart --rule everybody --set cart-v1=50,cart-v2=50`,
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: first(a.objects(routes)),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := parseShares(set)
			if err != nil {
				return err
			}
			if window <= 0 {
				return wrong("--window must be longer than 0")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			s, err := a.splitOf(ctx, c, args[0], rule)
			if err != nil {
				return err
			}
			if len(wanted) > 0 {
				if err := s.change(ctx, c, wanted); err != nil {
					return err
				}
			}
			if !watch {
				return a.print(s.declared(), func(w io.Writer) error { return a.showSplit(w, s.declared()) })
			}
			return a.watchSplit(cmd.Context(), s, window)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&set, "set", nil, "backends with their shares, as NAME=PERCENT; may be repeated")
	f.StringVar(&rule, "rule", "", "name or index of the rule; default: the only one that has several backends")
	f.BoolVar(&watch, "watch", false, "show what proxies count")
	f.DurationVar(&window, "window", window, "how long requests are counted between two looks")
	a.withOutput(f)
	return cmd
}

// parseShares reads "name=percent".
func parseShares(texts []string) (map[string]int32, error) {
	shares := map[string]int32{}
	for _, text := range texts {
		name, number, ok := strings.Cut(text, "=")
		n, err := strconv.ParseInt(number, 10, 32)
		if !ok || err != nil || name == "" || n < 0 || n > 100 {
			return nil, wrong("--set %q is not written as BACKEND=PERCENT, from 0 to 100", text)
		}
		if _, twice := shares[name]; twice {
			return nil, wrong("--set names %s twice", name)
		}
		shares[name] = int32(n)
	}
	return shares, nil
}

// splitting is one rule of a route.
type splitting struct {
	object client.Object
	kind   string
	// rule is its index, name the one that it has, if any.
	rule int
	name string
	refs []gwv1.BackendRef
}

// share is one backend of a rule.
type share struct {
	Backend string `json:"backend"`
	Weight  int32  `json:"weight"`
	// Declared is the share in percent that the weight asks for.
	Declared float64 `json:"declared"`
	// Requests are those that proxies have counted; Observed is their share in percent, which lies between Low and
	// High with 95 % confidence. They are there with --watch.
	Requests *int64   `json:"requests,omitempty"`
	Observed *float64 `json:"observed,omitempty"`
	Low      *float64 `json:"low,omitempty"`
	High     *float64 `json:"high,omitempty"`
}

// declaredSplit is what split shows.
type declaredSplit struct {
	Route  string  `json:"route"`
	Rule   string  `json:"rule"`
	Shares []share `json:"shares"`
}

// splitOf finds the rule that is meant.
func (a *app) splitOf(ctx context.Context, c *connection, route, rule string) (*splitting, error) {
	name, err := a.named(route)
	if err != nil {
		return nil, err
	}
	http, err := get(ctx, c.reader, name.Namespace, name.Name, &gwv1.HTTPRoute{})
	if err != nil {
		return nil, mesh.NotInstalled(err)
	}
	grpc, err := get(ctx, c.reader, name.Namespace, name.Name, &gwv1.GRPCRoute{})
	if err != nil {
		return nil, mesh.NotInstalled(err)
	}
	var all []*splitting
	if http != nil {
		for i := range http.Spec.Rules {
			one := &splitting{object: http, kind: "HTTPRoute", rule: i, name: nameOf(http.Spec.Rules[i].Name)}
			for j := range http.Spec.Rules[i].BackendRefs {
				one.refs = append(one.refs, http.Spec.Rules[i].BackendRefs[j].BackendRef)
			}
			all = append(all, one)
		}
	}
	if grpc != nil {
		for i := range grpc.Spec.Rules {
			one := &splitting{object: grpc, kind: "GRPCRoute", rule: i, name: nameOf(grpc.Spec.Rules[i].Name)}
			for j := range grpc.Spec.Rules[i].BackendRefs {
				one.refs = append(one.refs, grpc.Spec.Rules[i].BackendRefs[j].BackendRef)
			}
			all = append(all, one)
		}
	}
	if http == nil && grpc == nil {
		return nil, absent("HTTPRoute or GRPCRoute %s does not exist", name)
	}
	found := slices.DeleteFunc(all, func(s *splitting) bool {
		if rule == "" {
			return len(s.refs) < 2
		}
		return s.ruleName() != rule && strconv.Itoa(s.rule) != rule || len(s.refs) == 0
	})
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && rule != "":
		return nil, absent("route %s has no rule %q with backends", name, rule)
	case len(found) == 0:
		return nil, absent("no rule of route %s has several backends", name)
	}
	var names []string
	for _, s := range found {
		names = append(names, s.ruleName()+" of "+s.kind)
	}
	return nil, wrong("several rules of %s have several backends: choose one with --rule: %s", name, strings.Join(names, ", "))
}

func nameOf(n *gwv1.SectionName) string {
	if n == nil {
		return ""
	}
	return string(*n)
}

// ruleName is what people and proxies call the rule.
func (s *splitting) ruleName() string {
	if s.name != "" {
		return s.name
	}
	return strconv.Itoa(s.rule)
}

// weight is that of a reference; the Gateway API's default is 1.
func weight(ref *gwv1.BackendRef) int32 {
	if ref.Weight == nil {
		return 1
	}
	return *ref.Weight
}

// resolve returns the weights that shares ask for. All are percents.
func (s *splitting) resolve(wanted map[string]int32) ([]int32, error) {
	weights, set := make([]int32, len(s.refs)), make([]bool, len(s.refs))
	rest := int32(100)
	for name, percent := range wanted {
		i, err := s.find(name)
		if err != nil {
			return nil, err
		}
		if set[i] {
			return nil, wrong("--set names %s twice", s.refs[i].Name)
		}
		weights[i], set[i] = percent, true
		rest -= percent
	}
	others, left := int64(0), 0
	for i := range s.refs {
		if !set[i] {
			others += int64(weight(&s.refs[i]))
			left++
		}
	}
	switch {
	case rest < 0 || rest > 0 && left == 0:
		return nil, wrong("the shares make %d %%, not 100", 100-rest)
	case rest > 0 && left > 1 && others == 0:
		return nil, wrong("%d %% are left for backends that have none now: set all of them", rest)
	}
	// What rounding leaves goes to the last.
	given := int32(0)
	last := -1
	for i := range s.refs {
		if set[i] {
			continue
		}
		if others > 0 {
			weights[i] = int32(int64(rest) * int64(weight(&s.refs[i])) / others)
		}
		given += weights[i]
		if others == 0 || weight(&s.refs[i]) > 0 {
			last = i
		}
	}
	if last >= 0 {
		weights[last] += rest - given
	}
	return weights, nil
}

// find returns the backend of that name, or the only one whose name ends so.
func (s *splitting) find(name string) (int, error) {
	var names []string
	found := -1
	for i := range s.refs {
		full := string(s.refs[i].Name)
		if full == name {
			return i, nil
		}
		names = append(names, full)
		if strings.HasSuffix(full, "-"+name) {
			if found >= 0 {
				return 0, wrong("%q is the end of several backends: write one of %s", name, strings.Join(names, ", "))
			}
			found = i
		}
	}
	if found < 0 {
		return 0, absent("%s has no backend %q: it has %s", s.title(), name, strings.Join(names, ", "))
	}
	return found, nil
}

func (s *splitting) title() string {
	return fmt.Sprintf("rule %s of %s %s/%s", s.ruleName(), s.kind, s.object.GetNamespace(), s.object.GetName())
}

// change writes weights and waits until proxies have them.
func (s *splitting) change(ctx context.Context, c *connection, wanted map[string]int32) error {
	weights, err := s.resolve(wanted)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(s.patch(weights))
	if err != nil {
		return err
	}
	name := client.ObjectKeyFromObject(s.object)
	err = c.writer.Patch(ctx, s.object, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(fieldManager))
	switch {
	case apierrors.IsForbidden(err):
		return &failure{exitForbidden, err, "ask for the right to patch it"}
	case apierrors.IsInvalid(err) || apierrors.IsConflict(err):
		return &failure{exitFailed, fmt.Errorf("%s %s has not been changed: %w", s.kind, name, err), "somebody else may have changed it: try again"}
	case err != nil:
		return fmt.Errorf("change the weights: %w", err)
	}
	for i := range weights {
		s.refs[i].Weight = &weights[i]
	}
	return s.await(ctx, c.reader)
}

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// patch sets the weights of a rule and nothing else, if the route is still the one that was read. Rules are a list that
// one writer owns as a whole (listType=atomic), so that a server-side apply of weights alone would take it over.
func (s *splitting) patch(weights []int32) []operation {
	all := []operation{{"test", "/metadata/generation", s.object.GetGeneration()}}
	for i, w := range weights {
		all = append(all, operation{"add", fmt.Sprintf("/spec/rules/%d/backendRefs/%d/weight", s.rule, i), w})
	}
	return all
}

// pollInterval is the time between two looks at a status.
const pollInterval = 250 * time.Millisecond

// await waits until all parents of a route are programmed in its present generation.
func (s *splitting) await(ctx context.Context, r client.Reader) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	name := client.ObjectKeyFromObject(s.object)
	generation := s.object.GetGeneration()
	for {
		if err := r.Get(ctx, name, s.object); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("get %s %s: %w", s.kind, name, err)
		}
		why := unprogrammed(s.object)
		if why == "" || s.object.GetGeneration() > generation {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &failure{exitNo, fmt.Errorf("%s %s is changed, but not all proxies have it: %s", s.kind, name, why), "see kubectl weft proxy status, or raise --timeout"}
		}
	}
}

// unprogrammed says what keeps a route from being in force, "" if nothing does.
func unprogrammed(object client.Object) string {
	var parents []gwv1.RouteParentStatus
	switch o := object.(type) {
	case *gwv1.HTTPRoute:
		parents = o.Status.Parents
	case *gwv1.GRPCRoute:
		parents = o.Status.Parents
	}
	why := "Weft has not written a status: is the namespace enrolled?"
	for _, p := range parents {
		if p.ControllerName != meshv1alpha1.ControllerName {
			continue
		}
		c := meta.FindStatusCondition(p.Conditions, status.ConditionProgrammed)
		if c == nil || c.ObservedGeneration != object.GetGeneration() {
			return "generation " + strconv.FormatInt(object.GetGeneration(), 10) + " has not been seen yet"
		}
		if c.Status != metav1.ConditionTrue {
			return c.Reason + ": " + c.Message
		}
		why = ""
	}
	return why
}

// declared is the split that the weights ask for.
func (s *splitting) declared() declaredSplit {
	out := declaredSplit{Route: fmt.Sprintf("%s/%s/%s", s.kind, s.object.GetNamespace(), s.object.GetName()), Rule: s.ruleName(), Shares: []share{}}
	total := int64(0)
	for i := range s.refs {
		total += int64(weight(&s.refs[i]))
	}
	for i := range s.refs {
		ref := &s.refs[i]
		namespace, port := s.object.GetNamespace(), gwv1.PortNumber(0)
		if ref.Namespace != nil {
			namespace = string(*ref.Namespace)
		}
		if ref.Port != nil {
			port = *ref.Port
		}
		one := share{Backend: wire.ServicePortKey(namespace, string(ref.Name), uint16(port)), Weight: weight(ref)}
		if total > 0 {
			one.Declared = 100 * float64(one.Weight) / float64(total)
		}
		out.Shares = append(out.Shares, one)
	}
	return out
}
