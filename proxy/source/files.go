package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"weft.dev/weft/proxy/wire"
)

// Files applies configuration that comes from a list of resources or a directory instead of an
// operator. Each call brings the difference to the previous one as one delta. It must not be used by
// two goroutines at once.
type Files struct {
	// Apply puts deltas in force.
	Apply ApplyFunc

	seq  uint64
	held map[wire.Ref]string
}

// Set makes resources the whole configuration and returns what was rejected.
func (f *Files) Set(resources []wire.Resource) []wire.Rejection {
	d := wire.Delta{Seq: f.seq + 1}
	wanted := make(map[wire.Ref]bool, len(resources))
	for _, r := range resources {
		wanted[r.Ref] = true
		if version, ok := f.held[r.Ref]; !ok || version != r.Version {
			d.Upserted = append(d.Upserted, r)
		}
	}
	for ref := range f.held {
		if !wanted[ref] {
			d.Removed = append(d.Removed, ref)
		}
	}
	slices.SortFunc(d.Removed, compareRefs)
	rejected := applyValid(f.Apply, d)
	accepted := accept(d, rejected)
	held := maps.Clone(f.held)
	if held == nil {
		held = map[wire.Ref]string{}
	}
	for _, r := range accepted.Upserted {
		held[r.Ref] = r.Version
	}
	for _, ref := range accepted.Removed {
		delete(held, ref)
	}
	f.seq, f.held = d.Seq, held
	return rejected
}

// Load makes the resources in the files of a directory the whole configuration. If a file cannot be
// read, nothing changes.
func (f *Files) Load(dir string) ([]wire.Rejection, error) {
	resources, err := ReadDir(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("configuration in %s: %w", dir, err)
	}
	return f.Set(resources), nil
}

// ReadDir reads the resources in all .json, .yaml and .yml files at the top of a directory, in the order
// of the files' names. A file holds any number of documents, each of them one resource or a list of
// resources in their JSON form. Versions are computed and may be left out. Two resources with the same
// Ref are an error.
func ReadDir(dir fs.FS) ([]wire.Resource, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, err
	}
	var resources []wire.Resource
	seen := map[wire.Ref]string{}
	for _, entry := range entries {
		switch filepath.Ext(entry.Name()) {
		case ".json", ".yaml", ".yml":
		default:
			continue
		}
		data, err := fs.ReadFile(dir, entry.Name())
		if err != nil {
			return nil, err
		}
		read, err := decodeFile(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		for _, r := range read {
			if other, ok := seen[r.Ref]; ok {
				return nil, fmt.Errorf("%s is in %s and in %s", r.Ref, other, entry.Name())
			}
			seen[r.Ref] = entry.Name()
		}
		resources = append(resources, read...)
	}
	return resources, nil
}

// decodeFile reads a stream of YAML documents, of which JSON is a special case.
func decodeFile(data []byte) ([]wire.Resource, error) {
	var resources []wire.Resource
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return resources, nil
		}
		if err != nil {
			return nil, err
		}
		items, isList := document.([]any)
		if !isList && document != nil {
			items = []any{document}
		}
		for _, item := range items {
			r, err := decodeResource(item)
			if err != nil {
				return nil, err
			}
			resources = append(resources, r)
		}
	}
}

// decodeResource turns a decoded document into a resource, strictly: a misspelt field is an error.
func decodeResource(item any) (wire.Resource, error) {
	data, err := json.Marshal(item)
	if err != nil {
		return wire.Resource{}, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var r wire.Resource
	if err := decoder.Decode(&r); err != nil {
		return wire.Resource{}, err
	}
	if err := r.Valid(); err != nil {
		return wire.Resource{}, err
	}
	return wire.New(r.Key, r.Scope, r.Origin, r.Content()), nil
}
