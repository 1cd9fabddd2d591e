package main

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

func (a *app) routesCommand() *cobra.Command {
	return group("routes", "Try requests on routes", a.explainCommand(), a.routesTestCommand(), a.routesDiffCommand())
}

func (a *app) explainCommand() *cobra.Command {
	var from string
	var headers []string
	cmd := &cobra.Command{
		Use:   `explain "METHOD http://SERVICE.NAMESPACE[:PORT]/PATH"`,
		Short: "Say which rule a request takes, what filters make of it, and where it goes",
		Long: `Say which rule a request takes, what filters make of it, where it goes, and whether it may. Nothing is sent.

It is found out by the code that proxies match and decide with. The exit code is 1 if the mesh would answer with an
error.`,
		Example: `  kubectl weft routes explain "GET http://web.shop/cart" --from front/web-5d7f
  kubectl weft routes explain "grpc://orders.shop:9000/orders.v1.Orders/Get" -H "x-environment: staging" --from front/sa/web -f manifests/`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			caller, err := a.callerOr(m, from)
			if err != nil {
				return err
			}
			q, err := parseQuery(m, caller, args[0], headers)
			if err != nil {
				return err
			}
			e := a.explain(m, q)
			if err := a.print(e, func(w io.Writer) error { return a.showExplanation(w, e) }); err != nil {
				return err
			}
			if e.fails() {
				return errNo
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "caller: "+callerUsage+"; default: -n, or the namespace of the Service")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "header of the request, as name: value; may be repeated")
	a.withFiles(cmd.Flags())
	a.withOutput(cmd.Flags())
	return cmd
}

// callerOr reads the caller, or takes one of the namespace of -n.
func (a *app) callerOr(m *mesh.Mesh, text string) (trial.Caller, error) {
	if text != "" {
		return parseCaller(m, text)
	}
	namespace := a.namespace
	if namespace == "" && len(m.Compiled.Enrolled) == 1 {
		namespace = m.Compiled.Enrolled[0]
	}
	if namespace == "" {
		return trial.Caller{}, wrong("say who sends it: --from %s", callerUsage)
	}
	return parseCaller(m, namespace)
}

// explanation is what becomes of a request.
type explanation struct {
	Caller  trial.Caller  `json:"caller"`
	Request trial.Request `json:"request"`
	trial.Outcome
}

func (a *app) explain(m *mesh.Mesh, q query) explanation {
	e := explanation{Caller: q.caller, Request: trial.Describe(&q.request)}
	e.Outcome = trial.New(m.Compiled.Resources, m.Compiled.Enrolled).Try(q.caller, q.servicePort, &q.request)
	if !e.Captured {
		e.Why = whyPlain(m, q)
	}
	return e
}

// fails tells that the mesh would answer with an error, whatever backend is chosen.
func (e *explanation) fails() bool {
	if e.Answer != nil {
		return e.Answer.Status >= http.StatusBadRequest
	}
	return len(e.Backends) > 0 && !slices.ContainsFunc(e.Backends, func(b trial.Backend) bool {
		return b.Answer == nil || b.Answer.Status < http.StatusBadRequest
	})
}

func (a *app) showExplanation(w io.Writer, e explanation) error {
	fmt.Fprintf(w, "%s\n  from %s\n", requestLine(e.Request), e.Caller)
	if !e.Captured {
		_, err := fmt.Fprintf(w, "  goes to the Service as without the mesh: %s\n", e.Why)
		return err
	}
	fmt.Fprintf(w, "  is for %s (%s)\n", e.Destination, e.Protocol)
	switch {
	case e.Rule != nil:
		fmt.Fprintf(w, "  takes %s, by %s, out of %s\n", ruleText(e.Rule), e.Rule.Matched, matches(e.Candidates))
	case e.Candidates > 0:
		fmt.Fprintf(w, "  takes no rule: none of %s there is for it\n", matches(e.Candidates))
	default:
		fmt.Fprintln(w, "  has no route to take")
	}
	if len(e.Policy) > 0 {
		fmt.Fprintf(w, "  with %s\n", strings.Join(e.Policy, ", "))
	}
	if e.Answer != nil {
		a.showAnswer(w, "  ", e.Answer)
	}
	for i := range e.Backends {
		a.showBackend(w, e, &e.Backends[i])
	}
	for _, mirror := range e.Mirrors {
		fmt.Fprintf(w, "  %s is mirrored to %s\n", trial.PercentText(mirror.Percent), mirror.Backend)
	}
	return nil
}

func ruleText(r *trial.Rule) string {
	name := "rule " + strconv.Itoa(r.Index)
	if r.Name != "" {
		name = "rule " + strconv.Quote(r.Name)
	}
	kind := string(r.Kind)
	if r.Consumer {
		kind = "consumer " + kind
	}
	return fmt.Sprintf("%s of %s %s/%s", name, kind, r.Namespace, r.Route)
}

func (a *app) showAnswer(w io.Writer, indent string, answer *trial.Answer) {
	status := strconv.Itoa(answer.Status)
	if answer.GRPC != "" {
		status = answer.GRPC
	}
	text := fmt.Sprintf("is answered %s by the proxy: %s", status, answer.Reason)
	if answer.Status >= http.StatusBadRequest {
		text = a.paint(red, text) + ": " + reason.Of(answer.Reason).Meaning
	}
	fmt.Fprintln(w, indent+text)
	for _, h := range answer.Header {
		fmt.Fprintf(w, "%s  %s\n", indent, h)
	}
}

var pathTexts = map[trial.Path]string{
	trial.PathLocal:  "picked by the caller's own proxy",
	trial.PathHop:    "over mutual TLS to the proxies of its namespace",
	trial.PathDirect: "in plain text, since its namespace is not enrolled",
}

func (a *app) showBackend(w io.Writer, e explanation, b *trial.Backend) {
	name := b.Key
	if name == "" {
		name = "a backend that does not exist"
	}
	text := fmt.Sprintf("  %s goes to %s", trial.PercentText(b.Percent), name)
	if path := pathTexts[b.Path]; path != "" {
		text += ", " + path
	}
	if b.Endpoints >= 0 {
		text += ", " + plural(b.Endpoints, "pod")
	}
	fmt.Fprintln(w, text)
	if e.Protocol != wire.ProtocolTCP {
		showChanges(w, e.Request, b.Request)
	}
	if b.Path != "" {
		fmt.Fprintln(w, "    "+a.verdictText(b.Verdict))
	}
	if b.Answer != nil {
		a.showAnswer(w, "    ", b.Answer)
	}
}

// showChanges says what filters have made of a request.
func showChanges(w io.Writer, before, after trial.Request) {
	if requestLine(before) != requestLine(after) {
		fmt.Fprintf(w, "    as %s\n", requestLine(after))
	}
	for _, h := range after.Header {
		if !slices.Contains(before.Header, h) {
			fmt.Fprintf(w, "    with header %s\n", h)
		}
	}
	for _, h := range before.Header {
		if !slices.Contains(after.Header, h) {
			fmt.Fprintf(w, "    without header %s\n", h)
		}
	}
}

// verdictText says who has decided what.
func (a *app) verdictText(v trial.Verdict) string {
	by := ""
	switch {
	case v.Policy != "" && v.Rule >= 0:
		by = fmt.Sprintf(" by rule %d of MeshAuthorization %s", v.Rule, v.Policy)
	case v.Policy != "":
		by = fmt.Sprintf(" since no rule of MeshAuthorization %s, or of another that allows, matches", v.Policy)
	}
	switch v.Decision {
	case "unconcerned":
		return "allowed: no MeshAuthorization is for it"
	case "allowed":
		if by == "" {
			by = " since no rule denies it"
		}
		return a.paint(green, "allowed") + by
	case "would_deny":
		return a.paint(yellow, "allowed, but would be denied") + by + ", which only audits"
	default:
		return a.paint(red, "denied") + by
	}
}

func matches(n int) string {
	if n == 1 {
		return "1 match"
	}
	return strconv.Itoa(n) + " matches"
}

// whyPlain says why a request does not pass a proxy.
func whyPlain(m *mesh.Mesh, q query) string {
	if !m.Enrolled(q.caller.Namespace) {
		return "namespace " + q.caller.Namespace + " is not enrolled, so that nothing of it is captured"
	}
	namespace, name, _, _ := wire.ParseServicePortKey(q.servicePort)
	if svc := m.Service(types.NamespacedName{Namespace: namespace, Name: name}); svc != nil {
		return compile.Uncaptured(m.Snapshot, svc)
	}
	return q.servicePort + " is not captured"
}
