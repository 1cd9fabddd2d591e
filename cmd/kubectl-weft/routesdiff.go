package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
)

// theCluster stands for what is in the cluster in place of files.
const theCluster = "cluster"

func (a *app) routesDiffCommand() *cobra.Command {
	var log, from string
	cmd := &cobra.Command{
		Use: "diff OLD NEW --replay ACCESSLOG", Short: "Say what a change would mean for recorded requests",
		Long: `Say what a change of routes and policies would mean for requests that an access log has recorded, by the code that proxies
match and decide with. Nothing is sent.

OLD and NEW are files or directories of YAML, or the word ` + theCluster + ` for what is declared there now. Files of -f belong to both, such
as those of the Services. An object of NEW takes the place of the one of its kind and name that -f has.

The log has a JSON object per line with the names of GEP-5253, as Weft's proxies write it; - is standard input. Other lines
are passed over. A log holds neither headers nor values of queries: requests that OLD alone does not send to the rule
that the log names are left out, and counted.

The exit code is 1 if something would change.`,
		Example: `  kubectl logs -n front -l mesh.weft.dev/component=proxy --tail=-1 | kubectl weft routes diff cluster new/ --replay -
  kubectl weft routes diff old.yaml new.yaml -f services/ --replay access.log -o json`,
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if log == "" {
				return misused(cmd, "name an access log with --replay")
			}
			before, err := a.loadSide(cmd, args[0])
			if err != nil {
				return err
			}
			after, err := a.loadSide(cmd, args[1])
			if err != nil {
				return err
			}
			var caller *trial.Caller
			if from != "" {
				c, err := parseCaller(before, from)
				if err != nil {
					return err
				}
				caller = &c
			}
			out, err := a.replayFile(newReplayer(before, after, caller), log)
			if err != nil {
				return err
			}
			if err := a.print(out, func(w io.Writer) error { return a.showReplayed(w, out) }); err != nil {
				return err
			}
			if len(out.Changes) > 0 {
				return errNo
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&log, "replay", "", "access log whose requests are tried, - for standard input")
	f.StringVar(&from, "from", "", "who has sent requests of which the log does not say it: "+callerUsage)
	a.withFiles(f)
	a.withOutput(f)
	return cmd
}

// loadSide reads one of the two meshes that are compared.
func (a *app) loadSide(cmd *cobra.Command, path string) (*mesh.Mesh, error) {
	common := a.files
	defer func() { a.files = common }()
	a.files = append(slices.Clone(common), path)
	if path == theCluster {
		if len(common) > 0 {
			return nil, wrong("-f and %s do not go together: the cluster has everything", theCluster)
		}
		a.files = nil
	}
	return a.loadMesh(cmd)
}

func (a *app) showReplayed(w io.Writer, r replayed) error {
	fmt.Fprintf(w, "%s, %d the same\n", plural(r.Requests, "request"), r.Same)
	for _, c := range r.Changes {
		fmt.Fprintf(w, "\n%s, such as %s\n  from %s\n", a.paint(yellow, plural(c.Requests, "request")), c.Example, c.From)
		for _, text := range c.Differences {
			fmt.Fprintf(w, "  %s\n", text)
		}
	}
	if len(r.LeftOut) > 0 {
		fmt.Fprintln(w)
	}
	for _, why := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintf(w, "left out: %s: %s\n", plural(r.LeftOut[why], "line"), why)
	}
	return nil
}
