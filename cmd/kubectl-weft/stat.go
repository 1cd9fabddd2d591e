package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/proxy/wire"
)

// groupings are what stat and top can show.
var groupings = map[string]proxies.By{
	"service": proxies.ByService, "backend": proxies.ByBackend, "route": proxies.ByRoute, "namespace": proxies.ByNamespace,
	"caller": proxies.ByCaller,
}

const groupingUsage = "service, backend, route, namespace (of the caller) or caller (its ServiceAccount)"

func (a *app) statCommand() *cobra.Command {
	by, window := "service", 5*time.Second
	cmd := &cobra.Command{
		Use: "stat", Short: "Show requests a second, success and latency, straight from the proxies",
		Long: `Show requests a second, success and latency, straight from the proxies of all enrolled namespaces, or of that of -n: what
their clients have sent within --window. No Prometheus is needed.`,
		Example: `  kubectl weft stat --by route -n front`,
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			traffic, err := a.traffic(cmd.Context(), by, window)
			if err != nil {
				return err
			}
			return a.print(traffic, func(w io.Writer) error { return a.showTraffic(w, by, traffic) })
		},
	}
	a.withWindow(cmd, &by, &window)
	a.withOutput(cmd.Flags())
	return cmd
}

func (a *app) withWindow(cmd *cobra.Command, by *string, window *time.Duration) {
	cmd.Flags().StringVar(by, "by", *by, "what is shown: "+groupingUsage)
	cmd.Flags().DurationVar(window, "window", *window, "how long requests are counted")
}

func (a *app) topCommand() *cobra.Command {
	by, window := "service", 2*time.Second
	cmd := &cobra.Command{
		Use: "top", Short: "Show what is busiest, again and again until interrupted", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for {
				traffic, err := a.traffic(cmd.Context(), by, window)
				if err != nil {
					return err
				}
				a.begin()
				if err := a.print(traffic, func(w io.Writer) error { return a.showTraffic(w, by, traffic) }); err != nil {
					return err
				}
			}
		},
	}
	a.withWindow(cmd, &by, &window)
	a.withOutput(cmd.Flags())
	return cmd
}

// traffic counts requests for a while.
func (a *app) traffic(ctx context.Context, by string, window time.Duration) ([]proxies.Traffic, error) {
	grouping, ok := groupings[by]
	switch {
	case !ok:
		return nil, wrong("--by %q is not one of %s", by, groupingUsage)
	case window <= 0:
		return nil, wrong("--window must be longer than 0")
	}
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	pods, way, err := a.pods(asking)
	if err != nil {
		return nil, err
	}
	found := proxies.Of(pods, a.namespace)
	if len(found) == 0 {
		return nil, a.orNotInstalled(asking, noProxy())
	}
	before, err := a.sample(ctx, way, found, grouping)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	select {
	case <-time.After(window):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := a.sample(ctx, way, found, grouping)
	if err != nil {
		return nil, err
	}
	return proxies.Between(before, after, time.Since(begun)), nil
}

// sample asks proxies once. Those that cannot be asked are named, and left out.
func (a *app) sample(ctx context.Context, way proxies.Way, pods []types.NamespacedName, by proxies.By) (proxies.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	failed := make([]error, len(pods))
	samples := make([]proxies.Sample, len(pods))
	whole := proxies.Sample{}
	proxies.Each(pods, func(i int, pod types.NamespacedName) {
		families, err := proxies.Metrics(ctx, way, pod)
		if failed[i] = err; err == nil {
			samples[i] = proxies.Sample{}
			samples[i].Add(pod.Namespace, families, by)
		}
	})
	if err := forbidden(failed); err != nil {
		return nil, err
	}
	if !slices.Contains(failed, nil) {
		return nil, unreached(failed[0])
	}
	for i := range pods {
		if failed[i] != nil {
			fmt.Fprintln(a.errOut, "not asked: "+line(failed[i].Error()))
			continue
		}
		whole.Merge(samples[i])
	}
	return whole, nil
}

func (a *app) showTraffic(w io.Writer, by string, traffic []proxies.Traffic) error {
	if len(traffic) == 0 {
		_, err := fmt.Fprintln(w, "no requests")
		return err
	}
	rows := make([][]string, len(traffic))
	for i, t := range traffic {
		success := fmt.Sprintf("%.2f %%", t.Success)
		if t.Success < 99 {
			success = a.paint(red, success)
		}
		rows[i] = []string{t.Name, fmt.Sprintf("%.1f", t.PerSecond), success, millis(t.P50), millis(t.P95), millis(t.P99)}
	}
	return table(w, []string{map[string]string{"service": "SERVICE", "backend": "BACKEND", "route": "ROUTE", "namespace": "CALLERS", "caller": "CALLER"}[by], "REQ/S", "SUCCESS", "P50", "P95", "P99"}, rows)
}

func millis(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + "ms" }

// servicePort returns the key of a Service port of a cluster.
func servicePort(ctx context.Context, r client.Reader, name types.NamespacedName, port string) (string, error) {
	svc, err := get(ctx, r, name.Namespace, name.Name, &corev1.Service{})
	if err != nil {
		return "", err
	}
	if svc == nil {
		return "", absent("Service %s does not exist", name)
	}
	number, err := onePort(svc, port)
	if err != nil {
		return "", err
	}
	return wire.ServicePortKey(name.Namespace, name.Name, uint16(number)), nil
}
