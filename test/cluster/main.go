// Command cluster runs a real two-node Kubernetes on this machine, without a container engine, for
// Weft's demo and its cluster tests.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"weft.dev/weft/test/cluster/build"
	"weft.dev/weft/test/cluster/config"
	"weft.dev/weft/test/cluster/host"
	"weft.dev/weft/test/cluster/image"
)

const usage = `usage: cluster VERB

  up                      start the cluster, or do nothing when it is up; builds what it needs first
  down                    remove the cluster and everything that belongs to it
  status                  show nodes, programs and where the kubeconfig is
  load ARCHIVE...         import image archives into every node
  image -tag NAME -binary FILE -out ARCHIVE [-file SOURCE=PATH]... [-root]
                          make an image archive of a static binary
  node-stop NODE          make a node a dead machine: unplugged, everything on it killed
  node-start NODE         bring a stopped node back
  packages                install the Debian packages that the cluster needs
  build [-path] [WHAT]... build kubernetes, containerd, coredns, pause, echo, conformance, envtest, or all,
                          and print where each is: a directory, of echo and pause an image archive;
                          with -path nothing else goes to standard output
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 || strings.Trim(args[0], "-") == "help" || args[0] == "-h" {
		fmt.Fprint(stdout, usage)
		return nil
	}
	verb, args := args[0], args[1:]
	if needRoot[verb] && os.Geteuid() != 0 {
		return fmt.Errorf("%s makes namespaces, mounts and control groups and needs root", verb)
	}
	checkout, err := findCheckout()
	if err != nil {
		return err
	}
	builder, err := build.New(checkout, stdout)
	if err != nil {
		return err
	}
	machine := &host.Machine{
		Cluster: config.Local(), Builder: builder,
		Output: filepath.Join(checkout, "build", "cluster"), Progress: stdout,
	}
	switch verb {
	case "up":
		if err := machine.Up(ctx); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "cluster: up, KUBECONFIG=%s\n", filepath.Join(machine.Output, "kubeconfig"))
		return nil
	case "down":
		return machine.Down(ctx)
	case "status":
		return machine.Status(ctx, stdout)
	case "load":
		if len(args) == 0 {
			return errors.New("load: name at least one archive")
		}
		return machine.Load(ctx, args)
	case "image":
		return writeImage(args, stderr)
	case "node-stop", "node-start":
		if len(args) != 1 {
			return fmt.Errorf("%s: name one node", verb)
		}
		if verb == "node-stop" {
			return machine.StopNode(ctx, args[0])
		}
		return machine.StartNode(ctx, args[0])
	case "packages":
		return build.InstallPackages(ctx, stdout)
	case "build":
		return buildTargets(ctx, builder, args, stdout, stderr)
	}
	return fmt.Errorf("unknown verb %q\n%s", verb, usage)
}

var needRoot = map[string]bool{
	"up": true, "down": true, "status": true, "load": true, "node-stop": true, "node-start": true, "packages": true,
}

func writeImage(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	tag := flags.String("tag", "", "the image's whole `name`")
	binary := flags.String("binary", "", "static binary that becomes the entrypoint")
	out := flags.String("out", "", "archive to write")
	root := flags.Bool("root", false, "run as root instead of user "+image.NonRoot)
	extra := map[string]image.File{}
	flags.Func("file", "further file, as `source=path`; may be repeated", func(value string) error {
		path, file, err := parseFile(value)
		if err == nil {
			extra[path] = file
		}
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *tag == "" || *binary == "" || *out == "" || flags.NArg() > 0 {
		return errors.New("image: -tag, -binary and -out are needed, and no other arguments")
	}
	spec := image.Static(*tag, *binary)
	spec.Root = *root
	for path, file := range extra {
		spec.Files[path] = file
	}
	return image.Write(spec, *out)
}

// parseFile reads "source=path"; the file keeps the source's permission to be executed.
func parseFile(value string) (string, image.File, error) {
	source, path, ok := strings.Cut(value, "=")
	if !ok || source == "" || !filepath.IsAbs(path) {
		return "", image.File{}, fmt.Errorf("%q is not of the form source=/path", value)
	}
	info, err := os.Stat(source)
	if err != nil {
		return "", image.File{}, fmt.Errorf("find the file: %w", err)
	}
	file := image.File{Source: source, Mode: 0o644}
	if info.Mode()&0o111 != 0 {
		file.Mode = 0o755
	}
	return path, file, nil
}

// findCheckout walks up to the directory of this module's go.mod.
func findCheckout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module weft.dev/weft\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this inside a checkout of weft.dev/weft")
		}
		dir = filepath.Dir(dir)
	}
}
