package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// strictFile keeps, in a directory of the node, the names of the namespaces with strict ports. It holds no
// addresses: those that were a proxy's may be somebody else's by the time it is read. An empty one keeps
// nothing.
type strictFile string

func (dir strictFile) path() string { return filepath.Join(string(dir), "strict.json") }

// read returns what was written last, nothing if nothing was.
func (dir strictFile) read() ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(dir.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("strict namespaces: %w", err)
	}
	var namespaces []string
	if err := json.Unmarshal(data, &namespaces); err != nil {
		return nil, fmt.Errorf("strict namespaces %s: %w", dir.path(), err)
	}
	return namespaces, nil
}

// write replaces the file in one step. Of nothing there is no file.
func (dir strictFile) write(namespaces []string) error {
	if dir == "" {
		return nil
	}
	if len(namespaces) == 0 {
		if err := os.Remove(dir.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("strict namespaces: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(namespaces)
	if err != nil {
		return fmt.Errorf("strict namespaces: %w", err)
	}
	next := dir.path() + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("strict namespaces: %w", err)
	}
	if err := os.Rename(next, dir.path()); err != nil {
		return fmt.Errorf("strict namespaces: %w", err)
	}
	return nil
}
