package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/test/cluster/build"
	"weft.dev/weft/test/cluster/config"
	"weft.dev/weft/test/cluster/host"
	"weft.dev/weft/test/cluster/image"
)

// artifacts are what `build` can be asked for: each returns the path to use.
var artifacts = map[string]func(context.Context, *build.Builder) (string, error){
	"kubernetes":  target(build.Kubernetes),
	"containerd":  target(build.Containerd),
	"coredns":     target(build.CoreDNS),
	"conformance": target(build.Conformance),
	"envtest": func(ctx context.Context, b *build.Builder) (string, error) {
		return b.EnvtestAssets(ctx)
	},
	"echo":  echoImage,
	"pause": pauseImage,
}

func target(t build.Target) func(context.Context, *build.Builder) (string, error) {
	return func(ctx context.Context, b *build.Builder) (string, error) { return b.Build(ctx, t) }
}

func buildTargets(ctx context.Context, b *build.Builder, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.SetOutput(stderr)
	paths := flags.Bool("path", false, "print the path of each, and progress on standard error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	names := make([]string, 0, len(artifacts))
	for name := range artifacts {
		names = append(names, name)
	}
	slices.Sort(names)
	wanted := flags.Args()
	if len(wanted) == 0 {
		wanted = names
	}
	if *paths {
		b.Progress = stderr
	}
	for _, name := range wanted {
		artifact, ok := artifacts[name]
		if !ok {
			return fmt.Errorf("build: %q is none of %s", name, strings.Join(names, ", "))
		}
		path, err := artifact(ctx, b)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, path)
	}
	return nil
}

// echoImage makes the image that the mesh conformance suite's manifests name. They mount nothing, so it
// carries the certificate that its arguments name.
func echoImage(ctx context.Context, b *build.Builder) (string, error) {
	dir, err := b.Build(ctx, build.Echo)
	if err != nil {
		return "", err
	}
	certificate, err := config.SelfSigned("echo", time.Now())
	if err != nil {
		return "", err
	}
	spec := image.Static("registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0", filepath.Join(dir, "server"))
	// The suite runs `client` by name in the same container.
	spec.Files["/usr/local/bin/client"] = image.File{Source: filepath.Join(dir, "client"), Mode: 0o755}
	spec.Files["/cert.crt"] = image.File{Content: certificate.Certificate, Mode: 0o644}
	spec.Files["/cert.key"] = image.File{Content: certificate.Key, Mode: 0o644}
	out := filepath.Join(dir, "image.tar")
	return out, image.Write(spec, out)
}

func pauseImage(ctx context.Context, b *build.Builder) (string, error) {
	out := filepath.Join(b.Cache, "pause", "image.tar")
	return out, host.WritePauseImage(ctx, b, config.Local().PauseImage, out)
}
