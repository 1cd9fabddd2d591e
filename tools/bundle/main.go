// Command bundle makes the bundle and the catalog for the Operator Lifecycle Manager out of what kustomize makes
// of config/manifests, which it reads from standard input. It writes files and nothing else; what is in them is
// decided in package olm.
//
//	kustomize build config/manifests | bundle -version v0.1.0 -icon icon.svg -out bundle/
//	bundle -out bundle -catalog config/catalog/weft/catalog.yaml -image example/weft-bundle:v0.1.0
//
// It exits with 1 when the result breaks a rule of OLM; -released asks for images by digest.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"weft.dev/weft/tools/bundle/olm"
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader) error {
	flags := flag.NewFlagSet("bundle", flag.ContinueOnError)
	version := flags.String("version", "", "version of the release, such as v0.1.0")
	icon := flags.String("icon", "", "SVG file")
	out := flags.String("out", "bundle", "directory of the bundle")
	catalog := flags.String("catalog", "", "file of the catalog to make of the bundle, instead of a bundle")
	image := flags.String("image", "", "image of the bundle, for the catalog")
	released := flags.Bool("released", false, "ask for images by digest")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *catalog != "" {
		return writeCatalog(*out, *catalog, *image)
	}
	objects, err := olm.Decode(stdin)
	if err != nil {
		return err
	}
	picture, err := os.ReadFile(*icon)
	if err != nil {
		return fmt.Errorf("icon: %w", err)
	}
	b, err := olm.Generate(olm.Input{Objects: objects, Version: *version, Icon: picture})
	if err != nil {
		return err
	}
	files, err := b.Files()
	if err != nil {
		return err
	}
	// What an earlier version had and this one has not must not stay.
	if err := os.RemoveAll(filepath.Join(*out, "manifests")); err != nil {
		return fmt.Errorf("clear the bundle: %w", err)
	}
	for name, content := range files {
		if err := write(filepath.Join(*out, name), content); err != nil {
			return err
		}
	}
	return broken(olm.Check(b, *released))
}

func writeCatalog(bundle, file, image string) error {
	if image == "" {
		return errors.New("a catalog needs -image, the bundle's")
	}
	b, err := olm.Read(os.DirFS(bundle))
	if err != nil {
		return err
	}
	content, err := olm.Catalog(b, image)
	if err != nil {
		return err
	}
	if err := write(file, content); err != nil {
		return err
	}
	return broken(olm.CheckCatalog(content, b))
}

func broken(found []olm.Finding) error {
	var errs []error
	for _, f := range found {
		errs = append(errs, errors.New(f.String()))
	}
	return errors.Join(errs...)
}

func write(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
