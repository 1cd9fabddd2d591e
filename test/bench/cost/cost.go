// Package cost reads what processes cost, for benches that have them run on cores of their own.
package cost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// LoadCore and ProxyCore are where things run, as taskset wants them.
const (
	LoadCore  = "0"
	ProxyCore = "1"
)

// pinned tells in the environment that this process is on the core of the load.
const pinned = "WEFT_BENCH_PINNED"

// Pin starts the program again on the core of the load.
func Pin() error {
	if os.Getenv(pinned) != "" {
		return nil
	}
	if runtime.NumCPU() < 2 {
		return fmt.Errorf("the bench needs two cores, one for the proxy alone; there are %d", runtime.NumCPU())
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{taskset, "-c", LoadCore, self}, os.Args[1:]...)
	return syscall.Exec(taskset, args, append(os.Environ(), pinned+"=1")) //nolint:gosec // it is this program
}

// CPU is how long the threads of a process have run on a core. It is an error if there are none any more.
func CPU(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("process %d has ended: %w", pid, os.ErrProcessDone)
	}
	var sum time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		ran, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// Memory is what a process holds, in bytes.
type Memory struct {
	// Resident is all of it, Proportional has of what several processes share the share of each.
	Resident, Proportional float64
}

// MemoryOf reads the memory of a process.
func MemoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("memory: %w", err)
	}
	var m Memory
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		into := map[string]*float64{"Rss:": &m.Resident, "Pss:": &m.Proportional}[fields[0]]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return Memory{}, fmt.Errorf("memory: %w", err)
		}
		*into = kib * 1024
	}
	if m.Resident == 0 {
		return Memory{}, fmt.Errorf("process %d has no memory", pid)
	}
	return m, nil
}
