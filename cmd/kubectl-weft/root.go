package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/proxy/wire"
)

// app is what all commands share.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	now         func() time.Time
	// terminal tells that out is one, noColor that nobody wants colours.
	terminal, noColor bool
	// connect returns the connection that the flags ask for.
	connect func() (*connection, error)

	kubeconfig, context, namespace, system, output string
	timeout                                        time.Duration
	files                                          []string
}

// root returns all commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-weft",
		Short: "Look at a Weft mesh, try changes to it, and find what is wrong with it",
		Long: `Look at a Weft mesh, try changes to it, and find what is wrong with it.

Most commands work on a cluster and, with -f, on files alone: what is compiled and matched is compiled and matched
by the code that the operator and the proxies run.`,
		Annotations:       map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl weft"},
		Version:           wire.Build,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		Args:              usage(cobra.NoArgs),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.checkOutput(cmd) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return misused(cmd, err.Error())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.kubeconfig, "kubeconfig", "", "path of the kubeconfig; default: as kubectl")
	f.StringVar(&a.context, "context", "", "context of the kubeconfig")
	f.StringVarP(&a.namespace, "namespace", "n", "", "namespace of objects that are named without one; default: that of the context")
	f.StringVar(&a.system, "system-namespace", "weft-system", "namespace in which Weft runs")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long the cluster may take to answer")
	root.AddCommand(
		a.checkCommand(), a.statusCommand(), a.analyzeCommand(), a.routesCommand(), a.authzCommand(), a.describeCommand(),
		a.proxyCommand(), a.certsCommand(), a.statCommand(), a.topCommand(), a.tapCommand(), a.whyCommand(),
		a.splitCommand(), a.environmentsCommand(), a.debugCommand(), a.runCommand(),
		a.versionCommand(),
	)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range everyCommand(root) {
		cmd.DisableAutoGenTag, cmd.DisableSuggestions = true, true
		// What cobra has made itself refuses words as all others do.
		switch {
		case cmd.Name() == "completion":
			holdOthers(cmd)
		case cmd.HasParent() && cmd.Parent().Name() == "completion":
			cmd.Args = usage(cobra.NoArgs)
		}
		a.completeFlags(cmd)
		if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() && !strings.Contains(cmd.Use, "FILE") && !strings.Contains(cmd.Use, "OLD") {
			cmd.ValidArgsFunction = nothing
		}
	}
	return root
}

// everyCommand returns a command and all below it.
func everyCommand(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		all = append(all, everyCommand(child)...)
	}
	return all
}

// group returns a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	holdOthers(cmd)
	cmd.AddCommand(children...)
	return cmd
}

// holderAnnotation marks commands that only hold others.
const holderAnnotation = "weft.dev/holds-others"

// holdOthers makes a command say which commands it holds, and refuse what is none of them.
func holdOthers(cmd *cobra.Command) {
	cmd.Annotations = map[string]string{holderAnnotation: "true"}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// helpCommand is cobra's, but for names that do not exist, which are an error.
func helpCommand() *cobra.Command {
	// find returns the command that names lead to, and the first that leads nowhere.
	find := func(cmd *cobra.Command, names []string) (*cobra.Command, string) {
		for _, name := range names {
			i := slices.IndexFunc(cmd.Commands(), func(child *cobra.Command) bool { return child.Name() == name })
			if i < 0 {
				return cmd, name
			}
			cmd = cmd.Commands()[i]
		}
		return cmd, ""
	}
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "Show help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, unknown := find(cmd.Root(), args)
			switch {
			case unknown == "":
				return about.Help()
			case about.HasAvailableSubCommands():
				return unknownCommand(about, unknown)
			default:
				return misused(about, fmt.Sprintf("%s has no commands such as %q", display(about), unknown))
			}
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []string
			if about, unknown := find(cmd.Root(), args); unknown == "" {
				for _, child := range about.Commands() {
					if child.IsAvailableCommand() {
						names = append(names, child.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// unknownCommand says which commands there are.
func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	return misused(cmd, fmt.Sprintf("unknown command %q: there are %s", name, strings.Join(names, ", ")))
}

// usage makes what is wrong with arguments a wrong use.
func usage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if !cmd.HasParent() && len(given) > 0 {
			return unknownCommand(cmd, given[0])
		}
		err := args(cmd, given)
		if _, wanted, ok := strings.Cut(cmd.Use, " "); err != nil && ok && !strings.HasPrefix(wanted, "-") {
			return misused(cmd, fmt.Sprintf("takes %s, not %s", wanted, plural(len(given), "argument")))
		}
		if err != nil {
			return misused(cmd, err.Error())
		}
		return nil
	}
}

// output formats.
const (
	outputWide = "wide"
	outputJSON = "json"
	outputYAML = "yaml"
)

// withOutput adds -o.
func (a *app) withOutput(f *pflag.FlagSet) {
	f.StringVarP(&a.output, "output", "o", "", formatUsage+strings.Join([]string{outputWide, outputJSON, outputYAML}, ", "))
}

// checkOutput refuses a format that the command does not have, before anything is asked of a cluster.
func (a *app) checkOutput(cmd *cobra.Command) error {
	flag := cmd.Flags().Lookup("output")
	if flag == nil || a.output == "" {
		return nil
	}
	formats := strings.TrimPrefix(flag.Usage, formatUsage)
	if !slices.Contains(strings.Split(formats, ", "), a.output) {
		return misused(cmd, fmt.Sprintf("--output %q is not one of %s", a.output, formats))
	}
	return nil
}

const formatUsage = "format: "

// withFiles adds -f.
func (a *app) withFiles(f *pflag.FlagSet) {
	f.StringArrayVarP(&a.files, "filename", "f", nil, "files or directories of YAML instead of a cluster, - for standard input; may be repeated")
}

// loadMesh reads the mesh that the flags name.
func (a *app) loadMesh(cmd *cobra.Command) (*mesh.Mesh, error) {
	if len(a.files) > 0 {
		return mesh.Files(a.files, mesh.FileOptions{Namespace: a.namespace, SystemNamespace: a.system, Stdin: a.in})
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := a.withTimeout(cmd)
	defer cancel()
	return mesh.Cluster(ctx, c.reader, a.system)
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Show the version of this command", Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return a.print(map[string]string{"version": wire.Build}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, wire.Build)
				return err
			})
		},
	}
	a.withOutput(cmd.Flags())
	return cmd
}
