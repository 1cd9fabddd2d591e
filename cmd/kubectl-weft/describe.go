package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/cmd/kubectl-weft/findings"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
)

// description is an object in plain words.
type description struct {
	Object   mesh.Object        `json:"object"`
	Sections []section          `json:"sections"`
	Findings []findings.Finding `json:"findings,omitempty"`
}

type section struct {
	Title string   `json:"title"`
	Lines []string `json:"lines"`
}

func (d *description) add(title string, lines ...string) {
	if len(lines) > 0 {
		d.Sections = append(d.Sections, section{title, lines})
	}
}

// describer describes one kind. Nothing is returned for an object that does not exist.
type describer func(d *describing, name types.NamespacedName) *description

// describing is what descriptions are made from.
type describing struct {
	mesh  *mesh.Mesh
	trial *trial.Mesh
}

func (a *app) describeCommand() *cobra.Command {
	cmd := group("describe", "Describe an object in plain words",
		a.describeOne("svc", "Service", "service", describeService, a.objects(services),
			"Describe a Service: which routes apply in which order, who may call it, and which policy sets what"),
		a.describeOne("route", "HTTPRoute or GRPCRoute", "httproute", describeRoute, a.objects(routes),
			"Describe a route: where it applies, what its rules do, and which policy sets what"),
		a.describeOne("policy", "MeshPolicy or MeshAuthorization", "meshpolicy", describePolicy, a.objects(policies),
			"Describe a policy: what it is for, and what results there"),
		a.describeOne("pod", "Pod", "pods", describePod, a.objects(everyPod),
			"Describe a pod: who it is, whether it is captured, and which Services lead to it"),
		a.describeOne("namespace", "Namespace", "ns", describeNamespace, a.completeNamespace,
			"Describe a namespace: whether it is enrolled, its proxies, Services, routes and policies"),
	)
	return cmd
}

func (a *app) describeOne(use, kinds, alias string, describe describer, complete completion, short string) *cobra.Command {
	argument := " [NAMESPACE/]NAME"
	if use == "namespace" {
		argument = " NAME"
	}
	cmd := &cobra.Command{
		Use: use + argument, Aliases: []string{alias}, Short: short, Args: usage(cobra.ExactArgs(1)), ValidArgsFunction: first(complete),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			name, err := a.named(args[0])
			if err != nil {
				return err
			}
			if use == "namespace" {
				name = types.NamespacedName{Name: args[0]}
			}
			d := describe(&describing{m, trial.New(m.Compiled.Resources, m.Compiled.Enrolled)}, name)
			if d == nil {
				return absent("%s %s does not exist", kinds, strings.TrimPrefix(name.String(), "/"))
			}
			d.Findings = slices.DeleteFunc(findings.Analyze(m), func(f findings.Finding) bool { return f.Object != d.Object })
			return a.print(d, func(w io.Writer) error { return a.showDescription(w, d) })
		},
	}
	a.withFiles(cmd.Flags())
	a.withOutput(cmd.Flags())
	return cmd
}

// named reads NAME or NAMESPACE/NAME.
func (a *app) named(text string) (types.NamespacedName, error) {
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		if namespace == "" || name == "" || strings.Contains(name, "/") {
			return types.NamespacedName{}, wrong("%q is not written as NAMESPACE/NAME", text)
		}
		return types.NamespacedName{Namespace: namespace, Name: name}, nil
	}
	namespace := a.namespace
	if namespace == "" && len(a.files) > 0 {
		namespace = "default"
	}
	if namespace == "" {
		c, err := a.connect()
		if err != nil {
			return types.NamespacedName{}, err
		}
		namespace = c.namespace
	}
	return types.NamespacedName{Namespace: namespace, Name: text}, nil
}

func (a *app) showDescription(w io.Writer, d *description) error {
	fmt.Fprintln(w, d.Object)
	for _, s := range d.Sections {
		fmt.Fprintf(w, "\n%s\n", s.Title)
		for _, text := range s.Lines {
			fmt.Fprintf(w, "  %s\n", text)
		}
	}
	if len(d.Findings) > 0 {
		fmt.Fprintln(w, "\nFindings")
	}
	for _, f := range d.Findings {
		fmt.Fprintf(w, "  %s %s: %s\n", f.Severity, f.Code, f.Message)
	}
	return nil
}
