// Package process identifies and ends processes by pid and start time, so that a pid which the kernel
// has given to somebody else is never signalled. It starts nothing.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Identity is a process: no two that run between two boots of a machine have the same.
type Identity struct {
	PID int `json:"pid"`
	// Start is the process' start in clock ticks since boot, field 22 of /proc/PID/stat (proc(5)).
	Start uint64 `json:"start"`
}

// Stat is what /proc/PID/stat says about a process.
type Stat struct {
	Identity
	Parent int
	// State is the kernel's letter, such as 'R', 'S' or 'Z'.
	State byte
}

// Read returns the state of the process that has pid now; fs.ErrNotExist when there is none.
func Read(pid int) (Stat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parseStat(string(content))
}

// Alive reports whether the process still runs; one that waits to be collected does not, and neither
// does the zero Identity.
func (id Identity) Alive() bool {
	stat, err := Read(id.PID)
	return err == nil && stat.Identity == id && stat.State != 'Z' && stat.State != 'X'
}

// Kill sends SIGKILL to the process and waits until it is gone. A process that is gone already, and a
// pid that now belongs to another process, are left alone and are no error.
func (id Identity) Kill(ctx context.Context) error {
	if !id.Alive() {
		return nil
	}
	// The descriptor pins the process: if it is still the right one after it was opened, the signal
	// cannot reach another.
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", id.PID, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if !id.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", id.PID, err)
	}
	for id.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", id.PID, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// Children returns the processes whose parent is pid, with the base name of their command.
func Children(pid int) (map[string]Identity, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[string]Identity{}
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		stat, err := Read(child)
		if err != nil || stat.Parent != pid {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		command, _, _ := strings.Cut(string(cmdline), "\x00")
		children[filepath.Base(command)] = stat.Identity
	}
	return children, nil
}

// parseStat reads a line of /proc/PID/stat. The command in parentheses may itself contain spaces and
// parentheses, so fields are counted from the last one.
func parseStat(line string) (Stat, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return Stat{}, fmt.Errorf("process state without a command: %q", line)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	if err != nil {
		return Stat{}, fmt.Errorf("process state: %w", err)
	}
	// The first of fields is the third of the line.
	fields := strings.Fields(line[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return Stat{}, fmt.Errorf("process state of %d is cut short: %q", pid, line)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return Stat{}, fmt.Errorf("parent of process %d: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("start of process %d: %w", pid, err)
	}
	return Stat{Identity: Identity{PID: pid, Start: start}, Parent: parent, State: fields[0][0]}, nil
}
