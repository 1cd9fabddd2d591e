// Package cgroup keeps the control groups of the local cluster: one group per node in every mounted
// hierarchy (version 1) or in the unified one (version 2). It touches no group but those it is told.
package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hierarchy is a mounted tree of control groups.
type Hierarchy struct {
	// Mount is where the tree is mounted.
	Mount string
	// Options are the mount options that select the tree, such as "cpu,cpuacct" or "name=systemd";
	// empty for version 2.
	Options string
}

// Unified reports whether the hierarchy is cgroup version 2.
func (h Hierarchy) Unified() bool { return h.Options == "" }

// Hierarchies returns the hierarchies that hold the machine's controllers: all of version 1 when there
// are any (a version 2 tree beside them has no controllers then), else the unified one.
func Hierarchies() ([]Hierarchy, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	hierarchies := parseMounts(string(content))
	if len(hierarchies) == 0 {
		return nil, errors.New("no control group hierarchy is mounted")
	}
	return hierarchies, nil
}

// Create makes the group name, such as "weft-cluster/node1", in every hierarchy, ready for processes
// and for groups below it.
func Create(hierarchies []Hierarchy, name string) error {
	for _, h := range hierarchies {
		dir := h.Mount
		for part := range strings.SplitSeq(name, "/") {
			if h.Unified() {
				if err := EnableControllers(dir); err != nil {
					return err
				}
			}
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("create a control group: %w", err)
			}
			if err := inheritCPUSet(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// Join moves the calling process into the group name of every hierarchy.
func Join(hierarchies []Hierarchy, name string) error {
	for _, h := range hierarchies {
		procs := filepath.Join(h.Mount, name, "cgroup.procs")
		if err := os.WriteFile(procs, []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join a control group: %w", err)
		}
	}
	return nil
}

// EnableControllers lets the groups below dir use every controller that dir has (version 2 only).
func EnableControllers(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the controllers of a control group: %w", err)
	}
	for controller := range strings.FieldsSeq(string(available)) {
		// One by one: a controller that cannot be enabled here, such as cpu beside real-time processes,
		// must not take the others with it.
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if err != nil && (controller == "memory" || controller == "pids") {
			return fmt.Errorf("enable controller %s: %w", controller, err)
		}
	}
	return nil
}

// Processes returns the pids in the group name and in all groups below it.
func Processes(hierarchies []Hierarchy, name string) ([]int, error) {
	set := map[int]bool{}
	for _, h := range hierarchies {
		err := walk(filepath.Join(h.Mount, name), func(dir string) error {
			content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				return err
			}
			for line := range strings.FieldsSeq(string(content)) {
				// 0 is a process outside the reader's process namespace; it cannot be one of ours.
				if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
					set[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the processes of a control group: %w", err)
		}
	}
	pids := make([]int, 0, len(set))
	for pid := range set {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids, nil
}

// Remove deletes the group name and all groups below it. The kernel frees the place of an ended
// process a moment after its end, so a busy group is tried again until ctx ends.
func Remove(ctx context.Context, hierarchies []Hierarchy, name string) error {
	for _, h := range hierarchies {
		for {
			err := removeTree(filepath.Join(h.Mount, name))
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove control group %s: %w", name, err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

func removeTree(root string) error {
	var dirs []string
	err := walk(root, func(dir string) error {
		dirs = append(dirs, dir)
		return nil
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// walk calls visit for root and every group below it, parents first. Groups that end meanwhile are
// passed over, and so is a root that does not exist.
func walk(root string, visit func(dir string) error) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			return nil
		}
		if err == nil {
			err = visit(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// inheritCPUSet fills the two files of a version 1 cpuset group without which it takes no process.
func inheritCPUSet(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || (err == nil && len(bytes.TrimSpace(value)) > 0) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		inherited, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			// The root of a version 2 tree has neither; an empty value means "as the parent" there.
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		inherited = bytes.TrimSpace(inherited)
		if len(inherited) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), inherited, 0o644); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// parseMounts reads /proc/self/mountinfo (proc_pid_mountinfo(5)).
func parseMounts(mountinfo string) []Hierarchy {
	var legacy, unified []Hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(source) < 3 {
			continue
		}
		switch source[0] {
		case "cgroup":
			if options := treeOptions(source[2]); options != "" {
				legacy = append(legacy, Hierarchy{Mount: fields[4], Options: options})
			}
		case "cgroup2":
			unified = append(unified, Hierarchy{Mount: fields[4]})
		}
	}
	if slices.ContainsFunc(legacy, func(h Hierarchy) bool { return strings.Contains(h.Options, "memory") }) {
		return legacy
	}
	if len(unified) > 0 {
		return unified[:1]
	}
	return legacy
}

// treeOptions keeps of a mount's options those that name a tree.
func treeOptions(options string) string {
	var tree []string
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "rw", "ro", "xattr", "noprefix", "clone_children":
		default:
			if !strings.HasPrefix(option, "release_agent=") {
				tree = append(tree, option)
			}
		}
	}
	return strings.Join(tree, ",")
}
