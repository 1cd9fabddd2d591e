package mesh

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Located makes an error of the YAML parser one that names its place in a file.
func Located(file string, err error) error {
	var one *yaml.LoadError
	if many, ok := errors.AsType[*yaml.LoadErrors](err); ok && len(many.Errors) > 0 {
		one = many.Errors[0]
	} else if !errors.As(err, &one) {
		return &FileError{Position{File: file, Line: 1, Column: 1}, err}
	}
	return &FileError{Position{File: file, Line: max(one.Mark.Line, 1), Column: max(one.Mark.Column, 1)}, errors.New(one.Message)}
}

func (s *source) position(n *yaml.Node) Position {
	return Position{File: s.file, Line: n.Line, Column: n.Column}
}

// errorOf is an error about a node, or about the whole object if it is nil.
func (s *source) errorOf(n *yaml.Node, err error) error {
	if n == nil {
		n = s.root
	}
	return &FileError{s.position(n), err}
}

// errorAt is an error about a field.
func (s *source) errorAt(field, format string, args ...any) error {
	return s.errorOf(keyOf(s.root, field), fmt.Errorf(format, args...))
}

// steps splits "spec.rules[0].name" into its parts.
func steps(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

// keyOf returns the key of a mapping's field, or nil.
func keyOf(n *yaml.Node, field string) *yaml.Node {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == field {
				return n.Content[i]
			}
		}
	}
	return nil
}

// fieldOf returns the value of a mapping's field, or nil.
func fieldOf(n *yaml.Node, field string) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == field {
				return n.Content[i+1]
			}
		}
	}
	return nil
}

// nodeAt returns the key that a path leads to, or as much of the way as there is.
func nodeAt(n *yaml.Node, path []string) *yaml.Node {
	found := n
	for _, step := range path {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if key := keyOf(n, step); key != nil {
			found, n = key, fieldOf(n, step)
			continue
		}
		i, err := strconv.Atoi(step)
		if err != nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
			break
		}
		n = n.Content[i]
		found = n
	}
	return found
}

// findNode returns the first node of those that a path without indices leads to for which wrong holds, nil if
// there is none.
func findNode(n *yaml.Node, path []string, wrong func(*yaml.Node) bool) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if len(path) == 0 {
		if wrong(n) {
			return n
		}
		// The values of a map have no names in the path.
		for i := 1; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
			if wrong(n.Content[i]) {
				return n.Content[i]
			}
		}
	}
	if n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			if found := findNode(item, path, wrong); found != nil {
				return found
			}
		}
	}
	if len(path) > 0 {
		if value := fieldOf(n, path[0]); value != nil {
			return findNode(value, path[1:], wrong)
		}
	}
	return nil
}

// jsonType is what a JSON decoder calls a node.
func jsonType(n *yaml.Node) string {
	switch n.ShortTag() {
	case "!!map":
		return "object"
	case "!!seq":
		return "array"
	case "!!int", "!!float":
		return "number"
	case "!!bool":
		return "bool"
	default:
		return "string"
	}
}
