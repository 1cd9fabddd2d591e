package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft.dev/weft/test/cluster/process"
)

// state is the record of a cluster on this machine. It is written before and after each step that it
// describes, so that a process which is killed in between leaves something to clean up by.
type state struct {
	// BootID tells a record of an earlier boot, whose pids mean nothing, from one of this.
	BootID string `json:"bootID"`
	// Output is the directory with the kubeconfig and the logs.
	Output string `json:"output"`
	// Complete says that a start came to its end.
	Complete bool `json:"complete"`
	// NetnsMount says that /run/netns was no mount before.
	NetnsMount bool `json:"netnsMount"`
	// Nodes has the first process of each node that should run; a stopped node has none.
	Nodes map[string]process.Identity `json:"nodes"`
	// Kubernetes and Containerd are the directories of the binaries that run.
	Kubernetes string `json:"kubernetes"`
	Containerd string `json:"containerd"`
}

func stateFile() string { return filepath.Join(stateDir, "state.json") }

// loadState returns the record of this boot; ok is false when there is none.
func loadState() (s state, ok bool, err error) {
	content, err := os.ReadFile(stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, fmt.Errorf("read the cluster's record: %w", err)
	}
	if err := json.Unmarshal(content, &s); err != nil {
		return state{}, false, fmt.Errorf("read the cluster's record: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return state{}, false, err
	}
	return s, s.BootID == boot, nil
}

func (s state) save() error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	return writeFile(stateFile(), content, 0o644)
}

// writeFile replaces path as a whole, and makes the directories that lead to it.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	partial := path + ".partial"
	if err := os.WriteFile(partial, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(partial, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func bootID() (string, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("identify the boot: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
