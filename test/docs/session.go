package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// pause is the time between two looks at what a page promises.
	pause = 100 * time.Millisecond
	// ending is how long a command may take to end when it is told to.
	ending = 10 * time.Second
)

// Setting is where commands of a page run.
type Setting struct {
	// Dir is the working directory.
	Dir string
	// Env is added to the environment of this process.
	Env []string
	// Isolated gives the page a network of its own, with nothing but loopback, so that it can use the ports that it
	// names. It takes root.
	Isolated bool
	// Replace are pairs of what stands in the page and what a reader has in its place, such as the name of a registry.
	Replace []string
	// Patience bounds the time until what a page shows is what commands write.
	Patience time.Duration
}

// Session runs the blocks of a page in their order. What they export is there for those that follow.
type Session struct {
	setting Setting
	replace *strings.Replacer
	// state holds what was exported, enter leads into the network of the page.
	state string
	enter []string
	ends  []func() error
}

// Start begins a page.
func Start(ctx context.Context, setting Setting) (*Session, error) {
	state, err := os.CreateTemp("", "weft-docs-")
	if err != nil {
		return nil, fmt.Errorf("begin a page: %w", err)
	}
	s := &Session{setting: setting, replace: strings.NewReplacer(setting.Replace...), state: state.Name()}
	s.ends = append(s.ends, func() error { return errors.Join(state.Close(), os.Remove(s.state)) })
	if setting.Isolated {
		if err := s.isolate(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// isolate makes a network that lasts as long as a process that holds it.
func (s *Session) isolate(ctx context.Context) error {
	holder := exec.CommandContext(ctx, "sh", "-c", "ip link set lo up && echo up && exec cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	in, err := holder.StdinPipe()
	if err != nil {
		return fmt.Errorf("network of a page: %w", err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		return fmt.Errorf("network of a page: %w", err)
	}
	if err := holder.Start(); err != nil {
		return fmt.Errorf("network of a page: %w", err)
	}
	s.ends = append(s.ends, func() error { return errors.Join(in.Close(), holder.Wait()) })
	said := make([]byte, 3)
	if _, err := out.Read(said); err != nil || string(said) != "up\n" {
		return fmt.Errorf("network of a page: ip link says %q: %w", said, err)
	}
	s.enter = []string{"nsenter", "--net=/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net"}
	return nil
}

// Close ends what goes on.
func (s *Session) Close() error {
	var errs []error
	for i := len(s.ends) - 1; i >= 0; i-- {
		errs = append(errs, s.ends[i]())
	}
	s.ends = nil
	return errors.Join(errs...)
}

// Play runs a block and returns how the page is not true. Commands whose output is shown are run again until it is
// what they write, as a reader would who sees that something is still on its way.
func (s *Session) Play(ctx context.Context, b *Block) error {
	ctx, cancel := context.WithTimeout(ctx, s.setting.Patience)
	defer cancel()
	if b.Is("background") {
		return s.background(ctx, b)
	}
	want, err := b.exit()
	if err != nil {
		return fmt.Errorf("%s: %w", b, err)
	}
	var last error
	for {
		var out output
		cmd := s.command(ctx, b.Text)
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); ctx.Err() == nil || last == nil {
			switch {
			case code < 0:
				return fmt.Errorf("%s: %w after\n%s", b, err, out.String())
			case code != want:
				last = fmt.Errorf("%s: exit code %d, want %d:\n%s", b, code, want, out.String())
			default:
				last = s.compare(b, out.String(), false)
			}
		}
		if last == nil || b.Shown == "" || !wait(ctx) {
			return last
		}
	}
}

// background starts a command and waits until it has written what is shown.
func (s *Session) background(ctx context.Context, b *Block) error {
	out := &output{}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	cmd := s.command(running, "exec "+b.Text)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		stop()
		return fmt.Errorf("%s: %w", b, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.ends = append(s.ends, func() error {
		stop()
		<-ended //nolint:errcheck // it was told to end
		return nil
	})
	for {
		differs := s.compare(b, out.String(), true)
		if differs == nil {
			return nil
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("%s: %w after\n%s", b, err, out.String())
		default:
		}
		if !wait(ctx) {
			return differs
		}
	}
}

func (s *Session) compare(b *Block, written string, begins bool) error {
	if b.Shown == "" {
		return nil
	}
	if d := differs(s.replace.Replace(b.Shown), written, b.Is("about"), begins); d != "" {
		return fmt.Errorf("%s: %s", b, d)
	}
	return nil
}

// wait returns false when there is no more time.
func wait(ctx context.Context) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// command prepares commands for a shell, which ends with the first that fails.
func (s *Session) command(ctx context.Context, text string) *exec.Cmd {
	script := fmt.Sprintf(". %[1]s\ntrap 'export -p > %[1]s' EXIT\nset -eo pipefail\n%[2]s\n", s.state, s.replace.Replace(text))
	if strings.HasPrefix(text, "exec ") {
		script = fmt.Sprintf(". %s\n%s\n", s.state, s.replace.Replace(text))
	}
	args := append(append([]string{}, s.enter...), "bash", "-c", script)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = s.setting.Dir, append(os.Environ(), s.setting.Env...)
	// All of it ends together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = ending
	return cmd
}

// Tools makes a directory for the PATH in which "kubectl" is kubectl-weft alone: there is no cluster.
func Tools(dir, kubectlWeft string) error {
	script := "#!/bin/sh\n[ \"$1\" = weft ] || { echo \"there is no cluster for: kubectl $*\" >&2; exit 1; }\nshift\nexec kubectl-weft \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(script), 0o755); err != nil { //nolint:gosec // it is run
		return fmt.Errorf("tools of a page: %w", err)
	}
	if err := os.Symlink(kubectlWeft, filepath.Join(dir, "kubectl-weft")); err != nil {
		return fmt.Errorf("tools of a page: %w", err)
	}
	return nil
}

// output is what a command has written so far.
type output struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.Write(p)
}

// String returns all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String()
}
