package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// seen is an exchange with the proxy that has seen it.
type seen struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	admin.Exchange
}

func (a *app) tapCommand() *cobra.Command {
	var everywhere bool
	var path, method string
	var status, rate, limit int
	cmd := &cobra.Command{
		Use: "tap [NAMESPACE/]SERVICE[:PORT]", Short: "Show the requests of a Service as they end",
		Long: `Show the requests of a Service as they end: those that the proxies of its own namespace serve, or with -A those that
the proxies of all namespaces do. A request that crosses namespaces passes a proxy on each side.

Queries are left out, values of headers that may be secrets are not shown, and each proxy tells of at most --rate
requests a second. Without a port it is the Service's only one. What is behind id is what kubectl weft why takes.`,
		Example: `  kubectl weft tap shop/cart --status 500
  kubectl weft tap shop/cart:80 --path /api -o json`,
		Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: first(a.objects(services)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.withTimeout(cmd)
			key, pods, way, err := a.serviceProxies(ctx, args[0], everywhere)
			cancel()
			if err != nil {
				return err
			}
			query := url.Values{"destination": {key}, "path": {path}, "method": {strings.ToUpper(method)}, "rate": {strconv.Itoa(rate)}}
			if status > 0 {
				query.Set("status", strconv.Itoa(status))
			}
			return a.tap(cmd.Context(), way, pods, query, limit)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&everywhere, "all-namespaces", "A", false, "ask the proxies of all namespaces")
	f.StringVar(&path, "path", "", "only requests whose path begins so")
	f.StringVar(&method, "method", "", "only requests of this method")
	f.IntVar(&status, "status", 0, "only answers of this status or a greater one, and requests without an answer")
	f.IntVar(&rate, "rate", 100, "most requests a second that each proxy tells of, up to 1000")
	f.IntVar(&limit, "limit", 0, "end after so many requests; 0 is no limit")
	a.withOutput(f)
	return cmd
}

// serviceProxies returns the key of a Service port, and the proxies to ask about it.
func (a *app) serviceProxies(ctx context.Context, text string, everywhere bool) (string, []types.NamespacedName, proxies.Way, error) {
	c, err := a.connect()
	if err != nil {
		return "", nil, nil, err
	}
	text, port, _ := strings.Cut(text, ":")
	name, err := a.named(text)
	if err != nil {
		return "", nil, nil, err
	}
	key, err := servicePort(ctx, c.reader, name, port)
	if err != nil {
		return "", nil, nil, a.orNotInstalled(ctx, err)
	}
	pods, way, err := a.pods(ctx)
	if err != nil {
		return "", nil, nil, err
	}
	namespace := name.Namespace
	if everywhere {
		namespace = ""
	}
	found := proxies.Of(pods, namespace)
	if len(found) == 0 {
		return "", nil, nil, absent("no proxy runs in namespace %s: is it enrolled?", name.Namespace)
	}
	return key, found, way, nil
}

// tap follows proxies until ctx ends or limit requests have been shown. One that is lost is told of and tried again, as
// long as another is followed.
func (a *app) tap(ctx context.Context, way proxies.Way, pods []types.NamespacedName, query url.Values, limit int) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	t := tapping{app: a, limit: limit, done: done, lost: make([]error, len(pods))}
	var following sync.WaitGroup
	for i, pod := range pods {
		following.Go(func() { t.follow(ctx, way, pod, maps.Clone(query), i) })
	}
	following.Wait()
	return t.failed
}

// again is how long a lost proxy is left alone.
const again = time.Second

// tapping is a tap that runs.
type tapping struct {
	*app
	limit int
	done  func()

	mu    sync.Mutex
	shown int
	// lost has why a proxy is not followed, and nil for one that is or is about to be.
	lost   []error
	failed error
}

// follow follows the proxy at index i.
func (t *tapping) follow(ctx context.Context, way proxies.Way, pod types.NamespacedName, query url.Values, i int) {
	for {
		err := proxies.Follow(ctx, way, pod, query, func() { t.reached(i) }, func(l admin.Line) { t.show(pod, l) })
		if ctx.Err() != nil {
			return
		}
		t.lose(i, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
}

func (t *tapping) reached(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost[i] = nil
}

func (t *tapping) show(pod types.NamespacedName, l admin.Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed != nil || t.limit > 0 && t.shown >= t.limit {
		return
	}
	if l.Dropped > 0 {
		fmt.Fprintf(t.errOut, "%s has left out %s: raise --rate or ask for less\n", pod, plural(int(l.Dropped), "request"))
	}
	if l.Exchange != nil {
		t.failed = t.showSeen(seen{pod.Namespace, pod.Name, *l.Exchange})
		t.shown++
	}
	if t.failed != nil || t.limit > 0 && t.shown >= t.limit {
		t.done()
	}
}

func (t *tapping) lose(i int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	told := t.lost[i] != nil
	t.lost[i] = err
	switch f := forbidden([]error{err}); {
	case t.failed != nil:
	// Without a right to some proxies, what others show is not what was asked for.
	case f != nil:
		t.failed = f
		t.done()
	case !slices.ContainsFunc(t.lost, func(err error) bool { return err == nil }):
		t.failed = unreached(errors.Join(t.lost...))
		t.done()
	case !told:
		fmt.Fprintf(t.errOut, "%v; its requests are not shown until it is reached again\n", err)
	}
}

// showSeen writes one request.
func (a *app) showSeen(s seen) error {
	if a.output == outputJSON {
		return json.NewEncoder(a.out).Encode(s)
	}
	if a.output == outputYAML {
		fmt.Fprintln(a.out, "---")
		return a.print(s, nil)
	}
	status := strconv.Itoa(s.Status)
	if s.Failed() {
		status = a.paint(red, status)
	}
	text := fmt.Sprintf("%s %-8s %s %s %s%s %s", s.Time.UTC().Format("15:04:05.000"), s.Listener, status, s.Method, s.Authority, s.Path, s.Duration.Round(10*time.Microsecond))
	if s.Reason != "" {
		text += " " + s.Reason
	}
	if s.Backend != "" {
		text += " -> " + s.Backend
	}
	if s.Source != "" {
		text += " from " + s.Source
	}
	if s.ID != "" {
		text += " id " + s.ID
	}
	if _, err := fmt.Fprintln(a.out, text); err != nil || !a.wide() {
		return err
	}
	for _, h := range s.Header {
		fmt.Fprintln(a.out, "    "+h)
	}
	return nil
}

func (a *app) whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "why REQUEST-ID", Short: "Say what became of a request, and why",
		Long: `Say what became of a request, by its x-request-id or the trace id of its traceparent. The proxies of all enrolled
namespaces are asked, or those of -n; each remembers its last 512 requests and its last 512 failures. The exit code
is 1 if the request has failed.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			pods, way, err := a.pods(ctx)
			if err != nil {
				return err
			}
			found := proxies.Of(pods, a.namespace)
			if len(found) == 0 {
				return a.orNotInstalled(ctx, noProxy())
			}
			all, err := a.recent(ctx, way, found)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(s seen) bool { return s.ID != args[0] })
			if len(all) == 0 {
				return absent("no proxy remembers request %q: it may have none of the ids, or be too long ago", args[0])
			}
			if err := a.print(all, func(w io.Writer) error { return a.showStory(w, all) }); err != nil {
				return err
			}
			if slices.ContainsFunc(all, func(s seen) bool { return s.Failed() }) {
				return errNo
			}
			return nil
		},
	}
	a.withOutput(cmd.Flags())
	return cmd
}

// recent returns what proxies remember, in the order in which the requests began.
func (a *app) recent(ctx context.Context, way proxies.Way, pods []types.NamespacedName) ([]seen, error) {
	found, failed := make([][]admin.Exchange, len(pods)), make([]error, len(pods))
	proxies.Each(pods, func(i int, pod types.NamespacedName) { found[i], failed[i] = proxies.Recent(ctx, way, pod) })
	if err := forbidden(failed); err != nil {
		return nil, err
	}
	all := []seen{}
	for i, exchanges := range found {
		if failed[i] != nil {
			fmt.Fprintln(a.errOut, "not asked: "+line(failed[i].Error()))
		}
		for j := range exchanges {
			all = append(all, seen{pods[i].Namespace, pods[i].Name, exchanges[j]})
		}
	}
	slices.SortStableFunc(all, func(x, y seen) int { return x.Time.Compare(y.Time) })
	return all, nil
}

// passedOn tells whether a proxy of the callee has made the answer, or may have and was not asked. Where pods have proxies
// of their own, the endpoint is the pod's all the same.
func (a *app) passedOn(s *seen, all []seen) bool {
	if s.Listener == "hop" {
		return false
	}
	callee, _, _ := strings.Cut(s.Backend, "/")
	return s.Endpoint.Port() == wire.PortHop || a.namespace != "" && callee != a.namespace || slices.ContainsFunc(all, func(other seen) bool {
		return other.Listener == "hop" && other.Reason != "" && other.Status == s.Status && other.ID == s.ID
	})
}

func (a *app) showStory(w io.Writer, all []seen) error {
	for _, s := range all {
		fmt.Fprintf(w, "%s %s %s%s\n", s.Time.UTC().Format(time.RFC3339Nano), s.Method, s.Authority, s.Path)
		where := "the proxy of the caller, " + s.Namespace + "/" + s.Pod
		if s.Listener == "hop" {
			where = "the proxy of the callee, " + s.Namespace + "/" + s.Pod
		}
		fmt.Fprintf(w, "  at %s\n", where)
		if s.Source != "" {
			fmt.Fprintf(w, "  from %s %s\n", s.Source, s.Client)
		}
		if s.Route != "" {
			fmt.Fprintf(w, "  for %s, by rule %s of %s\n", s.Destination, s.Rule, s.Route)
		} else if s.Destination != "" {
			fmt.Fprintf(w, "  for %s, without a route\n", s.Destination)
		}
		if s.Tries > 0 {
			fmt.Fprintf(w, "  sent to %s, %s, the last to %s\n", s.Backend, plural(s.Tries, "time"), s.Endpoint)
		}
		answer := fmt.Sprintf("answered %d after %s", s.Status, s.Duration.Round(10*time.Microsecond))
		if s.Status == 0 {
			answer = "the client went away after " + s.Duration.Round(10*time.Microsecond).String()
		}
		switch {
		case s.Reason != "":
			e := reason.Of(reason.Reason(s.Reason))
			answer += fmt.Sprintf(" by the proxy: %s\n  %s\n  %s", a.paint(red, s.Reason), e.Meaning, e.Remedy)
		case s.Status >= 500 && a.passedOn(&s, all):
			answer += " by the callee's namespace, " + a.paint(red, "whose proxies know why")
			if a.namespace != "" {
				answer += ": leave out -n to ask them"
			}
		case s.Status >= 500:
			answer += " by the application: " + a.paint(red, "the mesh has only passed it on")
		}
		if _, err := fmt.Fprintln(w, "  "+answer); err != nil {
			return err
		}
	}
	return nil
}
