package node

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// restartDelay is how long an ended unit stays down. It is short because a unit that comes up before
// what it needs simply ends again.
const restartDelay = 500 * time.Millisecond

// Supervise starts the units and starts each again whenever it ends; it collects every orphan of the
// node. Each unit logs to NAME.log in logDir. It returns only when a unit cannot be started at all.
func Supervise(units []Unit, logDir string) error {
	s := &supervisor{logDir: logDir, running: map[int]Unit{}, wake: make(chan struct{}, 1)}
	for _, unit := range units {
		if err := s.start(unit); err != nil {
			return err
		}
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			// Every unit is between end and start.
			<-s.wake
		case err != nil:
			return fmt.Errorf("wait for a process: %w", err)
		default:
			s.ended(pid, status)
		}
	}
}

type supervisor struct {
	logDir  string
	mu      sync.Mutex
	running map[int]Unit // by pid
	wake    chan struct{}
}

// start holds the lock over the start, so that the end of a process cannot be seen before its pid is
// known.
func (s *supervisor) start(unit Unit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	file, err := os.OpenFile(filepath.Join(s.logDir, unit.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", unit.Name, err)
	}
	defer file.Close() //nolint:errcheck // the unit has a descriptor of its own
	path, err := exec.LookPath(unit.Command[0])
	if err != nil {
		return fmt.Errorf("find %s: %w", unit.Name, err)
	}
	process, err := os.StartProcess(path, unit.Command, &os.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []*os.File{nil, file, file},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", unit.Name, err)
	}
	s.running[process.Pid] = unit
	log.Printf("%s: started as process %d", unit.Name, process.Pid)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	// Supervise collects the process itself.
	return process.Release()
}

func (s *supervisor) ended(pid int, status syscall.WaitStatus) {
	s.mu.Lock()
	unit, ok := s.running[pid]
	delete(s.running, pid)
	s.mu.Unlock()
	if !ok {
		return
	}
	log.Printf("%s: ended (exit status %d, signal %d)", unit.Name, status.ExitStatus(), int(status.Signal()))
	time.AfterFunc(restartDelay, func() {
		if err := s.start(unit); err != nil {
			log.Printf("%s: %v", unit.Name, err)
		}
	})
}
