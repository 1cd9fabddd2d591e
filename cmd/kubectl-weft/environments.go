package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/proxy/wire"
)

// How a request says to which environment it belongs; examples/environments explains it.
const (
	environmentHeader = "x-environment"
	baggageHeader     = "baggage"
	environmentLabel  = "environment"
)

// baggageOf matches W3C baggage that has the environment as a member: a list of members "name=value", each with
// properties after semicolons, separated by commas.
func baggageOf(environment string) string {
	return `(.*,)?\s*environment\s*=\s*` + environment + `\s*([,;].*)?`
}

func (a *app) environmentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "environments", Short: "Show or write the routes that lead the requests of an environment to twins of Services",
		Long: `Show which Services have a twin for an environment such as staging, and which requests get it.

A twin is a Service with the same name and the environment behind a dash, in the same namespace. A request belongs to an
environment if its header x-environment, or the member environment of its W3C baggage, says so; or because of the
namespace of its caller, where a route of that namespace leads to the twin. All other requests are production, and use
the Service itself.`,
		Example: `  kubectl weft environments
  kubectl weft environments -f manifests/`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			all := environmentsOf(m, a.namespace)
			return a.print(all, func(w io.Writer) error { return showEnvironments(w, all) })
		},
	}
	a.withFiles(cmd.Flags())
	a.withOutput(cmd.Flags())
	cmd.AddCommand(a.environmentsWriteCommand())
	return cmd
}

func (a *app) environmentsWriteCommand() *cobra.Command {
	var callers string
	cmd := &cobra.Command{
		Use: "write ENVIRONMENT", Short: "Write the HTTPRoutes of an environment, for kubectl apply",
		Long: `Write an HTTPRoute for every HTTP port of every Service that has a twin for the environment, in all namespaces or in that of -n.
Nothing in the cluster changes: give what is written to kubectl apply. Do it again when twins come, and delete the route when
its twin goes.

With --callers the routes are for the clients of that namespace, which get the twins without saying anything.`,
		Example: `  kubectl weft environments write staging -n shop | kubectl apply -f -
  kubectl weft environments write staging --callers store-staging -f manifests/`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`).MatchString(args[0]) {
				return wrong("%q is no environment: use lower-case letters, digits and dashes", args[0])
			}
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			routes := environmentRoutes(m, a.namespace, args[0], callers)
			if len(routes) == 0 {
				return absent("no Service has a twin for %s: one whose name is that of another with -%s behind it, with the same ports", args[0], args[0])
			}
			return a.writeRoutes(routes)
		},
	}
	cmd.Flags().StringVar(&callers, "callers", "", "namespace whose clients belong to the environment")
	a.withFiles(cmd.Flags())
	return cmd
}

// writeRoutes writes routes as kubectl apply reads them.
func (a *app) writeRoutes(routes []*gwv1.HTTPRoute) error {
	for _, r := range routes {
		data, err := yaml.Marshal(map[string]any{
			"apiVersion": gwv1.GroupVersion.String(), "kind": "HTTPRoute",
			"metadata": map[string]any{"name": r.Name, "namespace": r.Namespace, "labels": r.Labels},
			"spec":     r.Spec,
		})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(a.out, "---\n%s", data); err != nil {
			return err
		}
	}
	return nil
}

// environmentRoutes returns a route for each Service port that has a twin, sorted.
func environmentRoutes(m *mesh.Mesh, namespace, environment, callers string) []*gwv1.HTTPRoute {
	var routes []*gwv1.HTTPRoute
	opaque := map[string]bool{}
	for i := range m.Compiled.Resources {
		if d := m.Compiled.Resources[i].Destination; d != nil && d.Protocol == wire.ProtocolTCP {
			opaque[m.Compiled.Resources[i].Key] = true
		}
	}
	for _, svc := range m.Snapshot.Services {
		twin := m.Service(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name + "-" + environment})
		if twin == nil || namespace != "" && svc.Namespace != namespace {
			continue
		}
		for _, port := range svc.Spec.Ports {
			udp := port.Protocol != "" && port.Protocol != corev1.ProtocolTCP
			if udp || !hasPort(twin, port.Port) || opaque[wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port.Port))] {
				continue
			}
			routes = append(routes, environmentRoute(svc, port.Port, environment, callers))
		}
	}
	slices.SortFunc(routes, func(x, y *gwv1.HTTPRoute) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return routes
}

func environmentRoute(svc *corev1.Service, port int32, environment, callers string) *gwv1.HTTPRoute {
	group, kind, number := gwv1.Group(""), gwv1.Kind("Service"), port
	named := func(name string) *gwv1.SectionName { n := gwv1.SectionName(name); return &n }
	r := &gwv1.HTTPRoute{}
	r.Name, r.Namespace = fmt.Sprintf("%s-%s-%d", svc.Name, environment, port), svc.Namespace
	r.Labels = map[string]string{environmentLabel: environment}
	parent := gwv1.ParentReference{Group: &group, Kind: &kind, Name: gwv1.ObjectName(svc.Name), Port: &number}
	backend := func(name string) []gwv1.HTTPBackendRef {
		ref := gwv1.HTTPBackendRef{}
		ref.Name, ref.Port = gwv1.ObjectName(name), &number
		if callers != "" && callers != svc.Namespace {
			namespace := gwv1.Namespace(svc.Namespace)
			ref.Namespace = &namespace
		}
		return []gwv1.HTTPBackendRef{ref}
	}
	twin := gwv1.HTTPRouteRule{Name: named(environment), BackendRefs: backend(svc.Name + "-" + environment)}
	if callers != "" {
		// A consumer route (GEP-1294): it applies to the clients of its own namespace alone.
		namespace := gwv1.Namespace(svc.Namespace)
		parent.Namespace, r.Namespace = &namespace, callers
		r.Spec.Rules = []gwv1.HTTPRouteRule{twin}
	} else {
		regular := gwv1.HeaderMatchRegularExpression
		twin.Matches = []gwv1.HTTPRouteMatch{
			{Headers: []gwv1.HTTPHeaderMatch{{Name: environmentHeader, Value: environment}}},
			{Headers: []gwv1.HTTPHeaderMatch{{Name: baggageHeader, Type: &regular, Value: baggageOf(environment)}}},
		}
		r.Spec.Rules = []gwv1.HTTPRouteRule{twin, {Name: named("production"), BackendRefs: backend(svc.Name)}}
	}
	r.Spec.ParentRefs = []gwv1.ParentReference{parent}
	return r
}

// environment is one line of environments.
type environment struct {
	Environment string `json:"environment"`
	// Service is the Service port as clients call it, Twin the one that its requests go to.
	Service string `json:"service"`
	Twin    string `json:"twin"`
	// Callers is the namespace whose clients get the twin; empty where requests say so.
	Callers string `json:"callers,omitempty"`
	// Route is the HTTPRoute that leads to the twin; empty if there is none, so that nobody gets it.
	Route string `json:"route,omitempty"`
}

// environmentsOf finds the routes of environments, and the twins of the environments found that have none.
func environmentsOf(m *mesh.Mesh, namespace string) []environment {
	all := []environment{}
	for _, r := range m.Snapshot.HTTPRoutes {
		for _, parent := range r.Spec.ParentRefs {
			all = append(all, environmentsOfRoute(r, parent)...)
		}
	}
	names := map[string]bool{}
	for _, e := range all {
		names[e.Environment] = true
	}
	for name := range names {
		for _, r := range environmentRoutes(m, "", name, "") {
			one := environmentsOfRoute(r, r.Spec.ParentRefs[0])[0]
			if !slices.ContainsFunc(all, func(e environment) bool { return e.Environment == name && e.Service == one.Service }) {
				one.Route = ""
				all = append(all, one)
			}
		}
	}
	if namespace != "" {
		all = slices.DeleteFunc(all, func(e environment) bool {
			return !strings.HasPrefix(e.Service, namespace+"/") && e.Callers != namespace
		})
	}
	slices.SortFunc(all, func(x, y environment) int {
		return cmp.Or(cmp.Compare(x.Environment, y.Environment), cmp.Compare(x.Service, y.Service), cmp.Compare(x.Callers, y.Callers), cmp.Compare(x.Route, y.Route))
	})
	return slices.Compact(all)
}

// environmentsOfRoute tells which environments a route knows of a parent.
func environmentsOfRoute(r *gwv1.HTTPRoute, parent gwv1.ParentReference) []environment {
	if parent.Kind == nil || *parent.Kind != "Service" {
		return nil
	}
	owner := r.Namespace
	if parent.Namespace != nil {
		owner = string(*parent.Namespace)
	}
	var all []environment
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		if len(rule.BackendRefs) != 1 {
			continue
		}
		ref := rule.BackendRefs[0]
		name, isTwin := strings.CutPrefix(string(ref.Name), string(parent.Name)+"-")
		says := slices.ContainsFunc(rule.Matches, func(m gwv1.HTTPRouteMatch) bool {
			return slices.ContainsFunc(m.Headers, func(h gwv1.HTTPHeaderMatch) bool {
				return strings.EqualFold(string(h.Name), environmentHeader) && h.Value == name
			})
		})
		one := environment{Environment: name, Service: owner + "/" + string(parent.Name), Twin: owner + "/" + string(ref.Name), Route: r.Namespace + "/" + r.Name}
		if parent.Port != nil {
			one.Service += ":" + strconv.Itoa(int(*parent.Port))
		}
		if ref.Port != nil {
			one.Twin += ":" + strconv.Itoa(int(*ref.Port))
		}
		switch {
		case !isTwin || ref.Group != nil && *ref.Group != "":
		case says:
			all = append(all, one)
		case r.Namespace != owner && everything(rule):
			one.Callers = r.Namespace
			all = append(all, one)
		}
	}
	return all
}

// everything tells that a rule takes all requests.
func everything(rule *gwv1.HTTPRouteRule) bool {
	return !slices.ContainsFunc(rule.Matches, func(m gwv1.HTTPRouteMatch) bool {
		return len(m.Headers) > 0 || len(m.QueryParams) > 0 || m.Method != nil || m.Path != nil && m.Path.Value != nil && *m.Path.Value != "/"
	})
}

func showEnvironments(w io.Writer, all []environment) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no route knows an environment: kubectl weft environments write makes some")
		return err
	}
	var rows [][]string
	for _, e := range all {
		who := "requests that say so"
		switch {
		case e.Route == "":
			who = "nobody: kubectl weft environments write " + e.Environment
		case e.Callers != "":
			who = "clients of " + e.Callers
		}
		rows = append(rows, []string{e.Environment, e.Service, e.Twin, who, e.Route})
	}
	return table(w, []string{"ENVIRONMENT", "SERVICE", "TWIN", "FOR", "ROUTE"}, rows)
}
