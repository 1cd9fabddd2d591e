package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"weft.dev/weft/cmd/kubectl-weft/findings"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

func (a *app) analyzeCommand() *cobra.Command {
	var everywhere bool
	failOn := string(findings.Error)
	cmd := &cobra.Command{
		Use:   "analyze",
		Short: "Find what does not work, or not as it was meant",
		Long: `Find what does not work, or not as it was meant: in a cluster, or in files before they are applied.

Each finding has a code, which docs/findings.md explains. Those of severity info are shown with -o wide.`,
		Example: `  kubectl weft analyze -n shop
  kubectl weft analyze -f manifests/ --fail-on warning`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := findings.Severity(failOn)
			if !slices.Contains([]findings.Severity{findings.Error, findings.Warning, findings.Info}, level) {
				return wrong("--fail-on %q is not one of error, warning, info", failOn)
			}
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			found := findings.Analyze(m)
			if a.namespace != "" && len(a.files) == 0 && !everywhere {
				found = slices.DeleteFunc(found, func(f findings.Finding) bool {
					return f.Object.Namespace != a.namespace && f.Object.Name != a.namespace
				})
			}
			return a.showFindings(m, found, level)
		},
	}
	cmd.Flags().StringVar(&failOn, "fail-on", failOn, "least severity that makes the exit code 1: error, warning, info")
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "all namespaces, whatever -n says")
	a.withFiles(cmd.Flags())
	a.withOutput(cmd.Flags())
	return cmd
}

func (a *app) showFindings(m *mesh.Mesh, found []findings.Finding, level findings.Severity) error {
	if found == nil {
		found = []findings.Finding{}
	}
	err := a.print(found, func(w io.Writer) error {
		colours := map[findings.Severity]string{findings.Error: red, findings.Warning: yellow}
		for _, f := range found {
			if f.Severity == findings.Info && !a.wide() {
				continue
			}
			severity := string(f.Severity)
			if colour := colours[f.Severity]; colour != "" {
				severity = a.paint(colour, severity)
			}
			where := ""
			if f.Position.File != "" {
				where = f.Position.String() + ": "
			}
			fmt.Fprintf(w, "%s%s %s: %s: %s\n    %s\n    %s\n", where, severity, f.Code, f.Object, f.Message, f.Code.Entry().Remedy, f.Link)
		}
		if len(m.Assumed) > 0 {
			fmt.Fprintf(w, "Taken as enrolled, since no file declares it: %s\n", strings.Join(m.Assumed, ", "))
		}
		_, err := fmt.Fprintln(w, findings.Counts(found))
		return err
	})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(found, func(f findings.Finding) bool { return f.Severity.AtLeast(level) }) {
		return errNo
	}
	return nil
}
