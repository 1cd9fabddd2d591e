package main

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// completion proposes words for the shell. What it cannot find out it leaves to people.
type completion = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective)

// completionPatience is how long a shell waits at most.
const completionPatience = 3 * time.Second

// oneOf completes one of some words.
func oneOf(all ...string) completion {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// nothing completes nothing.
func nothing(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// first completes the first argument and no other.
func first(complete completion) completion { return each(complete) }

// each completes each argument in its own way.
func each(all ...completion) completion {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(all) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all[len(args)](cmd, args, begun)
	}
}

// listed is a list of a cluster, and how its objects are named.
type listed struct {
	list    client.ObjectList
	options []client.ListOption
	names   func() []string
}

// objects completes names of objects of the namespace of -n or of the context, and with a namespace and a slash those
// of others.
func (a *app) objects(kinds func() []listed) completion {
	return func(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		namespace, prefix := c.namespace, ""
		if a.namespace != "" {
			namespace = a.namespace
		}
		if ns, _, ok := strings.Cut(begun, "/"); ok {
			namespace, prefix = ns, ns+"/"
		}
		var found []string
		for _, l := range kinds() {
			if err := c.reader.List(ctx, l.list, append(l.options, client.InNamespace(namespace))...); err != nil {
				continue
			}
			for _, name := range l.names() {
				found = append(found, prefix+name)
			}
		}
		slices.Sort(found)
		return slices.Compact(found), cobra.ShellCompDirectiveNoFileComp
	}
}

func namesOf[T any, P interface {
	*T
	metav1.Object
}](items *[]T) func() []string {
	return func() []string {
		var names []string
		for i := range *items {
			names = append(names, P(&(*items)[i]).GetName())
		}
		return names
	}
}

func services() []listed {
	var l corev1.ServiceList
	return []listed{{&l, nil, namesOf(&l.Items)}}
}

func routes() []listed {
	var http gwv1.HTTPRouteList
	var grpc gwv1.GRPCRouteList
	return []listed{{&http, nil, namesOf(&http.Items)}, {&grpc, nil, namesOf(&grpc.Items)}}
}

func policies() []listed {
	var p meshv1alpha1.MeshPolicyList
	var z meshv1alpha1.MeshAuthorizationList
	return []listed{{&p, nil, namesOf(&p.Items)}, {&z, nil, namesOf(&z.Items)}}
}

func everyPod() []listed {
	var l corev1.PodList
	return []listed{{&l, nil, namesOf(&l.Items)}}
}

func proxyPods() []listed {
	var l corev1.PodList
	return []listed{{&l, []client.ListOption{client.MatchingLabels{meshv1alpha1.ComponentLabel: compile.ComponentProxy}}, namesOf(&l.Items)}}
}

// namespaces completes names of namespaces with something behind them.
func (a *app) namespaces(cmd *cobra.Command, enrolled bool, behind string) []string {
	c, err := a.connect()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	var l corev1.NamespaceList
	var options []client.ListOption
	if enrolled {
		options = append(options, client.MatchingLabels{meshv1alpha1.EnabledLabel: "true"})
	}
	if err := c.reader.List(ctx, &l, options...); err != nil {
		return nil
	}
	var names []string
	for i := range l.Items {
		names = append(names, l.Items[i].Name+behind)
	}
	slices.Sort(names)
	return names
}

func (a *app) completeNamespace(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.namespaces(cmd, false, ""), cobra.ShellCompDirectiveNoFileComp
}

// completeProxy completes NAMESPACE[/POD].
func (a *app) completeProxy(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if strings.Contains(begun, "/") {
		return a.objects(proxyPods)(cmd, args, begun)
	}
	return a.namespaces(cmd, true, ""), cobra.ShellCompDirectiveNoFileComp
}

// completeCaller completes NAMESPACE/POD; accounts are left to people.
func (a *app) completeCaller(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if strings.Contains(begun, "/") {
		return a.objects(everyPod)(cmd, args, begun)
	}
	return a.namespaces(cmd, true, "/"), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeHost completes SERVICE.NAMESPACE:PORT.
func (a *app) completeHost(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := a.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	var l corev1.ServiceList
	if err := c.reader.List(ctx, &l); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range l.Items {
		for _, p := range l.Items[i].Spec.Ports {
			names = append(names, l.Items[i].Name+"."+l.Items[i].Namespace+":"+strconv.Itoa(int(p.Port)))
		}
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeContext completes contexts of the kubeconfig.
func (a *app) completeContext(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	config, err := rules.Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(config.Contexts)), cobra.ShellCompDirectiveNoFileComp
}

// flagCompletions are those of flags, by name; flags with the same name mean the same everywhere.
func (a *app) flagCompletions() map[string]completion {
	return map[string]completion{
		"namespace": a.completeNamespace, "system-namespace": a.completeNamespace, "context": a.completeContext, "callers": a.completeNamespace,
		"output": oneOf(outputWide, outputJSON, outputYAML), "by": oneOf(slices.Sorted(maps.Keys(groupings))...),
		"fail-on": oneOf("error", "warning", "info"), "kind": oneOf(configKinds...), "from": a.completeCaller,
		"method": oneOf("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), "set": nothing, "rule": nothing, "key": nothing,
	}
}

// completeFlags registers completions for whatever flags a command has.
func (a *app) completeFlags(cmd *cobra.Command) {
	for name, complete := range a.flagCompletions() {
		if cmd.LocalFlags().Lookup(name) != nil {
			// It fails only for flags that do not exist or that are registered already.
			_ = cmd.RegisterFlagCompletionFunc(name, complete)
		}
	}
}
