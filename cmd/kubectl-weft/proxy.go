package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

func (a *app) proxyCommand() *cobra.Command {
	return group("proxy", "Look into proxies", a.proxyStatusCommand(), a.proxyConfigCommand(), a.proxyDiffCommand())
}

// pods returns the pods of a cluster, and the way to them.
func (a *app) pods(ctx context.Context) ([]*corev1.Pod, proxies.Way, error) {
	c, err := a.connect()
	if err != nil {
		return nil, nil, err
	}
	pods, err := cluster.Pods(ctx, c.reader)
	if err != nil {
		return nil, nil, err
	}
	way, err := c.way()
	return pods, way, err
}

// proxyStatus is one line of proxy status.
type proxyStatus struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Sidecar tells that the proxy is beside the application of the pod.
	Sidecar bool `json:"sidecar,omitempty"`
	// Sync is synced, stale, rejected or unreachable.
	Sync      string           `json:"sync"`
	Connected bool             `json:"connected"`
	Ready     bool             `json:"ready"`
	Build     string           `json:"build,omitempty"`
	Seq       uint64           `json:"seq"`
	Applied   time.Time        `json:"applied,omitzero"`
	Resources int              `json:"resources"`
	Differs   int              `json:"differs"`
	Rejected  []wire.Rejection `json:"rejected,omitempty"`
	Error     string           `json:"error,omitempty"`
}

// States of a proxy's configuration.
const (
	syncSynced      = "synced"
	syncStale       = "stale"
	syncRejected    = "rejected"
	syncUnreachable = "unreachable"
)

func (a *app) proxyStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show which proxies have what is declared", Args: usage(cobra.NoArgs),
		Long: `Show which proxies have what is declared: of all enrolled namespaces, or of that of -n. What a proxy has is compared with
what is compiled from the cluster now. Of proxies beside pods it tells which pods to restart, because their version is
another than that of the namespace's own proxies. The exit code is 1 unless all are synced.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			all, err := a.proxyStatuses(ctx)
			if err != nil {
				return err
			}
			if err := a.print(all, func(w io.Writer) error { return a.showProxies(w, all) }); err != nil {
				return err
			}
			if slices.ContainsFunc(all, func(s proxyStatus) bool { return s.Sync != syncSynced }) {
				return errNo
			}
			return nil
		},
	}
	a.withOutput(cmd.Flags())
	return cmd
}

func (a *app) proxyStatuses(ctx context.Context) ([]proxyStatus, error) {
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	m, err := mesh.Cluster(ctx, c.reader, a.system)
	if err != nil {
		return nil, err
	}
	way, err := c.way()
	if err != nil {
		return nil, err
	}
	pods := proxies.Of(m.Pods, a.namespace)
	all := make([]proxyStatus, len(pods))
	failed := make([]error, len(pods))
	proxies.Each(pods, func(i int, pod types.NamespacedName) {
		s, err := proxies.State(ctx, way, pod, false)
		if failed[i] = err; err != nil {
			all[i] = proxyStatus{Namespace: pod.Namespace, Pod: pod.Name, Sync: syncUnreachable, Error: line(explain(err).line())}
			return
		}
		all[i] = newProxyStatus(pod, s, proxies.Compare(m.Compiled.Resources, pod.Namespace, s.Held))
	})
	for i, pod := range pods {
		all[i].Sidecar = compile.HasSidecar(m.Pod(pod))
	}
	return all, forbidden(failed)
}

// forbidden returns the first error that says that the user has no right; all other failures are the proxies'.
func forbidden(errs []error) error {
	for _, err := range errs {
		if err != nil && explain(err).code == exitForbidden {
			return &failure{exitForbidden, err, "ask for the ClusterRole weft-debugger in the namespace"}
		}
	}
	return nil
}

func newProxyStatus(pod types.NamespacedName, s admin.State, differs []proxies.Difference) proxyStatus {
	out := proxyStatus{
		Namespace: pod.Namespace, Pod: pod.Name, Sync: syncSynced, Connected: s.Connected, Ready: s.Ready, Build: s.Build, Seq: s.Seq,
		Applied: s.Applied, Resources: len(s.Held), Differs: len(differs), Rejected: s.Rejected,
	}
	switch {
	case len(s.Rejected) > 0:
		out.Sync = syncRejected
	case len(differs) > 0 || !s.Connected:
		out.Sync = syncStale
	}
	return out
}

func (a *app) showProxies(w io.Writer, all []proxyStatus) error {
	head := []string{"NAMESPACE", "POD", "SYNC", "OPERATOR", "VERSION", "CHANGED", "DIFFERS"}
	if a.wide() {
		head = append(head, "SEQ", "RESOURCES")
	}
	var rows [][]string
	for _, s := range all {
		colour := map[string]string{syncSynced: green, syncStale: yellow}[s.Sync]
		if colour == "" {
			colour = red
		}
		operator, age := "connected", "never"
		if !s.Connected {
			operator = "lost"
		}
		if !s.Applied.IsZero() {
			age = a.now().Sub(s.Applied).Round(time.Second).String() + " ago"
		}
		if s.Sync == syncUnreachable {
			operator, age = "", ""
		}
		row := []string{s.Namespace, s.Pod, a.paint(colour, s.Sync), operator, s.Build, age, strconv.Itoa(s.Differs)}
		if a.wide() {
			row = append(row, strconv.FormatUint(s.Seq, 10), strconv.Itoa(s.Resources))
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "no proxy runs")
		return err
	}
	if err := table(w, head, rows); err != nil {
		return err
	}
	for _, text := range outdated(all) {
		fmt.Fprintln(w, text)
	}
	for _, s := range all {
		for _, r := range s.Rejected {
			fmt.Fprintf(w, "%s/%s rejects %s: %s\n", s.Namespace, s.Pod, r.Ref, line(r.Reason))
		}
		if s.Error != "" {
			fmt.Fprintf(w, "%s/%s: %s\n", s.Namespace, s.Pod, s.Error)
		}
	}
	return nil
}

// outdated says which pods to restart: those whose own proxies are of another version than all that the namespace shares.
func outdated(all []proxyStatus) []string {
	current := map[string]map[string]bool{}
	for _, s := range all {
		if !s.Sidecar && s.Build != "" {
			if current[s.Namespace] == nil {
				current[s.Namespace] = map[string]bool{}
			}
			current[s.Namespace][s.Build] = true
		}
	}
	var out []string
	for _, s := range all {
		if s.Sidecar && s.Build != "" && len(current[s.Namespace]) == 1 && !current[s.Namespace][s.Build] {
			out = append(out, fmt.Sprintf("%s/%s: restart it, or what it belongs to, for its proxy to be of version %s", s.Namespace, s.Pod,
				slices.Collect(maps.Keys(current[s.Namespace]))[0]))
		}
	}
	return out
}

// oneProxy finds the proxy that is named, or the first of a namespace.
func (a *app) oneProxy(ctx context.Context, text string) (types.NamespacedName, proxies.Way, error) {
	pods, way, err := a.pods(ctx)
	if err != nil {
		return types.NamespacedName{}, nil, err
	}
	namespace, name, named := strings.Cut(text, "/")
	found := proxies.Of(pods, namespace)
	if named {
		found = slices.DeleteFunc(found, func(p types.NamespacedName) bool { return p.Name != name })
	}
	if len(found) == 0 {
		return types.NamespacedName{}, nil, a.orNotInstalled(ctx, absent("no proxy %s runs: see kubectl weft proxy status", text))
	}
	return found[0], way, nil
}

// orNotInstalled is an error that says what is not there, unless it is Weft itself.
func (a *app) orNotInstalled(ctx context.Context, err error) error {
	c, failed := a.connect()
	if failed != nil {
		return failed
	}
	if _, failed := theMesh(ctx, c.reader); errors.Is(failed, mesh.ErrNotInstalled) {
		return failed
	}
	return err
}

// configKinds are the kinds of resources that proxies have.
var configKinds = []string{
	string(wire.KindAuthorization), string(wire.KindBackend), string(wire.KindCertificate), string(wire.KindDestination), string(wire.KindEndpoints),
	string(wire.KindMesh), string(wire.KindProxies), string(wire.KindRoute), string(wire.KindSidecar), string(wire.KindWorkload),
}

func (a *app) proxyConfigCommand() *cobra.Command {
	var kind, key string
	cmd := &cobra.Command{
		Use: "config NAMESPACE[/POD]", Short: "Show the configuration that a proxy has in force",
		Long: `Show the configuration that a proxy has in force: of the pod that is named, or of one of the namespace. Private keys are
never shown. With -o json or yaml the resources are shown whole.`,
		Example: `  kubectl weft proxy config shop --kind Route
  kubectl weft proxy config shop --key shop/web:80 -o yaml`,
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: first(a.completeProxy),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind != "" && !slices.ContainsFunc(configKinds, func(k string) bool { return strings.EqualFold(k, kind) }) {
				return misused(cmd, fmt.Sprintf("--kind %q is not one of %s", kind, strings.Join(configKinds, ", ")))
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			pod, way, err := a.oneProxy(ctx, args[0])
			if err != nil {
				return err
			}
			s, err := proxies.State(ctx, way, pod, true)
			if err != nil {
				return unreached(err)
			}
			s.Resources = slices.DeleteFunc(s.Resources, func(r wire.Resource) bool {
				return kind != "" && !strings.EqualFold(string(r.Kind), kind) || !strings.HasPrefix(r.Key, key)
			})
			s.Held = slices.DeleteFunc(s.Held, func(h wire.Held) bool {
				return kind != "" && !strings.EqualFold(string(h.Kind), kind) || !strings.HasPrefix(h.Key, key)
			})
			return a.print(s, func(w io.Writer) error { return showConfig(w, s) })
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "only resources of this kind: "+strings.Join(configKinds, ", "))
	cmd.Flags().StringVar(&key, "key", "", "only resources whose key begins so, such as shop/web:80")
	a.withOutput(cmd.Flags())
	return cmd
}

// unreached is an error of asking a proxy.
func unreached(err error) error {
	if f := forbidden([]error{err}); f != nil {
		return f
	}
	return &failure{exitUnreachable, err, "see kubectl weft proxy status"}
}

func showConfig(w io.Writer, s admin.State) error {
	fmt.Fprintf(w, "Proxy %s/%s, version %s, change %d\n\n", s.Namespace, s.Pod, s.Build, s.Seq)
	var rows [][]string
	for i := range s.Resources {
		r := &s.Resources[i]
		origin := ""
		if r.Origin.Kind != "" {
			origin = mesh.Object{Kind: r.Origin.Kind, Namespace: r.Origin.Namespace, Name: r.Origin.Name}.String()
		}
		rows = append(rows, []string{string(r.Kind), r.Key, r.Version, origin})
	}
	return table(w, []string{"KIND", "KEY", "VERSION", "FROM"}, rows)
}

func (a *app) proxyDiffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "diff NAMESPACE[/POD]", Short: "Show where a proxy differs from what is declared",
		Long: `Show where a proxy differs from what is compiled from the cluster now. What depends on what runs and not on what is
declared (endpoints, identities, certificates, destination numbers) is left out. The exit code is 1 if something
differs.`,
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: first(a.completeProxy),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			c, err := a.connect()
			if err != nil {
				return err
			}
			pod, way, err := a.oneProxy(ctx, args[0])
			if err != nil {
				return err
			}
			m, err := mesh.Cluster(ctx, c.reader, a.system)
			if err != nil {
				return err
			}
			s, err := proxies.State(ctx, way, pod, true)
			if err != nil {
				return unreached(err)
			}
			differs := proxies.CompareContent(m.Compiled.Resources, pod.Namespace, s.Resources)
			if err := a.print(differs, func(w io.Writer) error { return showDifferences(w, pod, differs) }); err != nil {
				return err
			}
			if len(differs) > 0 {
				return errNo
			}
			return nil
		},
	}
	a.withOutput(cmd.Flags())
	return cmd
}

func showDifferences(w io.Writer, pod types.NamespacedName, differs []proxies.Difference) error {
	if len(differs) == 0 {
		_, err := fmt.Fprintf(w, "proxy %s has what is declared\n", pod)
		return err
	}
	for _, d := range differs {
		fmt.Fprintf(w, "%s: %s\n", d.Ref, d.What)
		for _, text := range d.Lines {
			fmt.Fprintf(w, "  %s\n", text)
		}
	}
	return nil
}
