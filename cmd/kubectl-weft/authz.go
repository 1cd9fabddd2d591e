package main

import (
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
	"weft.dev/weft/proxy/wire"
)

func (a *app) authzCommand() *cobra.Command {
	return group("authz", "Ask who may call", a.canCommand())
}

// permission is the answer to authz can.
type permission struct {
	Caller      trial.Caller   `json:"caller"`
	ServicePort string         `json:"servicePort"`
	Request     *trial.Request `json:"request,omitempty"`
	trial.Verdict
	// Outside says why nothing is decided, if the call does not pass the mesh.
	Outside string `json:"outside,omitempty"`
}

func (a *app) canCommand() *cobra.Command {
	var method, path string
	var headers []string
	cmd := &cobra.Command{
		Use:   "can CALLER SERVICE[.NAMESPACE][:PORT]",
		Short: "Say whether a caller may call a Service, and which rule decides",
		Long: `Say whether a caller may call a Service, which rule of which MeshAuthorization decides, and what each of them says.

A caller is ` + callerUsage + `. The request is judged as the application would get it: the filters of
routes are not applied, which kubectl weft routes explain does. Without --method and --path a port that speaks HTTP is
asked for GET /. The exit code is 1 if the call is denied.`,
		Example: `  kubectl weft authz can front/sa/web orders.shop --method POST --path /orders
  kubectl weft authz can front/web-5d7f orders.shop:9000 -f manifests/`,
		Args: usage(cobra.ExactArgs(2)), ValidArgsFunction: each(a.completeCaller, a.completeHost),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			caller, err := parseCaller(m, args[0])
			if err != nil {
				return err
			}
			p, err := permitted(m, caller, args[1], method, path, headers)
			if err != nil {
				return err
			}
			if err := a.print(p, func(w io.Writer) error { return a.showPermission(w, p) }); err != nil {
				return err
			}
			if !p.Allowed {
				return errNo
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&method, "method", "GET", "HTTP method")
	cmd.Flags().StringVar(&path, "path", "/", "path of the request; /package.Service/Method for gRPC")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "header of the request, as name: value; may be repeated")
	a.withFiles(cmd.Flags())
	a.withOutput(cmd.Flags())
	return cmd
}

func permitted(m *mesh.Mesh, caller trial.Caller, to, method, path string, headers []string) (permission, error) {
	host, portText, err := net.SplitHostPort(to)
	if err != nil {
		host, portText = to, ""
	}
	svc, err := findService(m, host, caller.Namespace)
	if err != nil {
		return permission{}, err
	}
	port, err := onePort(svc, portText)
	if err != nil {
		return permission{}, err
	}
	q, err := parseQuery(m, caller, fmt.Sprintf("%s http://%s.%s:%d%s", method, svc.Name, svc.Namespace, port, path), headers)
	if err != nil {
		return permission{}, err
	}
	p := permission{Caller: caller, ServicePort: q.servicePort}
	t := trial.New(m.Compiled.Resources, m.Compiled.Enrolled)
	_, d := t.Destination(caller.Namespace, q.servicePort)
	if d == nil || !m.Enrolled(caller.Namespace) || !m.Enrolled(svc.Namespace) {
		p.Verdict = trial.Verdict{Allowed: true, Decision: "unconcerned", Rule: -1}
		if p.Outside = "namespace " + svc.Namespace + " is not enrolled, so that nobody decides there"; d == nil || !m.Enrolled(caller.Namespace) {
			p.Outside = whyPlain(m, q)
		}
		return p, nil
	}
	request := &q.request
	if b := t.Backend(caller.Namespace, q.servicePort); b != nil && b.Protocol == wire.ProtocolTCP {
		request = nil
	} else {
		described := trial.Describe(request)
		p.Request = &described
	}
	p.Verdict = t.May(caller, q.servicePort, request)
	return p, nil
}

// onePort returns the port that is named, or the only one.
func onePort(svc *corev1.Service, text string) (int32, error) {
	if text == "" && len(svc.Spec.Ports) == 1 {
		return svc.Spec.Ports[0].Port, nil
	}
	for _, p := range svc.Spec.Ports {
		if text != "" && (strconv.Itoa(int(p.Port)) == text || p.Name == text) {
			return p.Port, nil
		}
	}
	if text == "" {
		return 0, wrong("Service %s/%s has several ports: add one of :%s", svc.Namespace, svc.Name, portList(svc))
	}
	return 0, absent("Service %s/%s has no port %s: it has %s", svc.Namespace, svc.Name, text, portList(svc))
}

func (a *app) showPermission(w io.Writer, p permission) error {
	what := "a connection to " + p.ServicePort
	if p.Request != nil {
		what = requestLine(*p.Request)
	}
	fmt.Fprintf(w, "%s\n  from %s\n", what, p.Caller)
	if p.Outside != "" {
		_, err := fmt.Fprintf(w, "  is not decided about: %s\n", p.Outside)
		return err
	}
	fmt.Fprintf(w, "  is %s\n", a.verdictText(p.Verdict))
	for _, j := range p.Trace {
		says := "no rule matches"
		if j.Rule >= 0 {
			says = "rule " + strconv.Itoa(j.Rule) + " matches"
		}
		audit := ""
		if j.Audit {
			audit = ", audited"
		}
		fmt.Fprintf(w, "    MeshAuthorization %s (%s%s): %s\n", j.Policy, j.Action, audit, says)
	}
	return nil
}
