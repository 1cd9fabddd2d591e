package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	kjson "sigs.k8s.io/json"
)

// source is one object as it stands in a file.
type source struct {
	file string
	root *yaml.Node
	json []byte
	head head
}

// head is what every object has.
type head struct {
	APIVersion, Kind, Name, Namespace string
}

// read turns the object into JSON and reads its head.
func (s *source) read() error {
	if s.root.Kind != yaml.MappingNode {
		return s.errorOf(s.root, errors.New("this is no Kubernetes object: it has neither apiVersion nor kind"))
	}
	asKubectl(s.root)
	var value any
	if err := s.root.Decode(&value); err != nil {
		return Located(s.file, err)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return s.errorOf(s.root, err)
	}
	s.json = data
	var h struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := s.decodeLoosely(&h); err != nil {
		return err
	}
	s.head = head{h.APIVersion, h.Kind, h.Metadata.Name, h.Metadata.Namespace}
	if s.head.Kind == "" || s.head.APIVersion == "" {
		return s.errorOf(s.root, errors.New("this is no Kubernetes object: it has no apiVersion or no kind"))
	}
	return nil
}

// decode reads the object. A field that does not exist is an error.
func (s *source) decode(object any) error {
	strict, err := kjson.UnmarshalStrict(s.json, object)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	if err != nil {
		return s.decodeError(err)
	}
	return nil
}

// decodeLoosely reads those fields of the object that are asked for.
func (s *source) decodeLoosely(object any) error {
	if err := kjson.UnmarshalCaseSensitivePreserveInts(s.json, object); err != nil {
		return s.decodeError(err)
	}
	return nil
}

// asKubectl makes the parser read scalars as kubectl does: by YAML 1.1, in which some words are booleans,
// and with keys and times as text.
func asKubectl(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		if n.Style == 0 && slices.Contains([]string{"yes", "Yes", "YES", "on", "On", "ON"}, n.Value) {
			n.Tag, n.Value = "!!bool", "true"
		}
		if n.Style == 0 && slices.Contains([]string{"no", "No", "NO", "off", "Off", "OFF"}, n.Value) {
			n.Tag, n.Value = "!!bool", "false"
		}
		if n.ShortTag() == "!!timestamp" {
			n.Tag = "!!str"
		}
	}
	for i, child := range n.Content {
		asKubectl(child)
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.ShortTag() != "!!merge" {
			child.Tag = "!!str"
		}
	}
}

var (
	namesField = regexp.MustCompile(`^(?:unknown|duplicate) field "(.+)"$`)
	namesType  = regexp.MustCompile(`cannot unmarshal (\S+?)(?: \S+)? into Go struct field [^.]*\.(\S+) of type (\S+)`)
)

// decodeError finds the place that an error of the decoder is about.
func (s *source) decodeError(err error) error {
	text := err.Error()
	if m := namesField.FindStringSubmatch(text); m != nil {
		return s.errorOf(nodeAt(s.root, steps(m[1])), err)
	}
	if m := namesType.FindStringSubmatch(text); m != nil {
		// Parts that are embedded appear by the name of their type.
		path := slices.DeleteFunc(strings.Split(m[2], "."), func(name string) bool { return name[0] >= 'A' && name[0] <= 'Z' })
		at := findNode(s.root, path, func(n *yaml.Node) bool { return jsonType(n) == m[1] })
		return s.errorOf(at, fmt.Errorf("%s cannot be of type %s", strings.Join(path, "."), m[1]))
	}
	return s.errorOf(s.root, err)
}
