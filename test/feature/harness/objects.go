package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// Documents splits YAML into its documents and leaves out those that hold only comments.
func Documents(file []byte) ([][]byte, error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
	var documents [][]byte
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf("split documents: %w", err)
		}
		var content any
		if err := yaml.Unmarshal(document, &content); err != nil {
			return nil, fmt.Errorf("document %d: %w", len(documents)+1, err)
		}
		if content != nil {
			documents = append(documents, document)
		}
	}
}

// Decode adds the object of one document to a snapshot. A field that does not exist is an error. An
// object takes the place of an earlier one of the same kind and name, as if it had been applied.
func Decode(document []byte, into *compile.Snapshot) error {
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(document, &head); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	var err error
	switch head.Kind {
	case "Mesh":
		into.Mesh = &meshv1alpha1.Mesh{}
		err = yaml.UnmarshalStrict(document, into.Mesh)
	case "Namespace":
		err = decode(document, &into.Namespaces)
	case "Service":
		err = decode(document, &into.Services)
	case "EndpointSlice":
		err = decode(document, &into.EndpointSlices)
	case "HTTPRoute":
		err = decode(document, &into.HTTPRoutes)
	case "GRPCRoute":
		err = decode(document, &into.GRPCRoutes)
	case "MeshPolicy":
		err = decode(document, &into.MeshPolicies)
	case "MeshAuthorization":
		err = decode(document, &into.MeshAuthorizations)
	default:
		err = errors.New("this kind means nothing to the mesh")
	}
	if err != nil {
		return fmt.Errorf("decode %s: %w", head.Kind, err)
	}
	return nil
}

func decode[T any, P interface {
	*T
	metav1.Object
}](document []byte, list *[]P) error {
	object := P(new(T))
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return err
	}
	*list = append(slices.DeleteFunc(slices.Clone(*list), func(o P) bool {
		return o.GetNamespace() == object.GetNamespace() && o.GetName() == object.GetName()
	}), object)
	return nil
}

// DecodeAll decodes every document of a file.
func DecodeAll(file []byte, into *compile.Snapshot) error {
	documents, err := Documents(file)
	if err != nil {
		return err
	}
	for _, document := range documents {
		if err := Decode(document, into); err != nil {
			return err
		}
	}
	return nil
}

// DecodeFiles decodes files of a directory in the given order; a name may be a pattern.
func DecodeFiles(dir fs.FS, names ...string) (compile.Snapshot, error) {
	var s compile.Snapshot
	for _, name := range names {
		matches, err := fs.Glob(dir, name)
		if err != nil {
			return s, fmt.Errorf("find %s: %w", name, err)
		}
		if len(matches) == 0 {
			return s, fmt.Errorf("find %s: %w", name, fs.ErrNotExist)
		}
		for _, match := range matches {
			file, err := fs.ReadFile(dir, match)
			if err != nil {
				return s, fmt.Errorf("read: %w", err)
			}
			if err := DecodeAll(file, &s); err != nil {
				return s, fmt.Errorf("%s: %w", path.Base(match), err)
			}
		}
	}
	return s, nil
}
