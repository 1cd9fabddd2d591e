package process

import (
	"bufio"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	for name, tc := range map[string]struct {
		line    string
		want    Stat
		wantErr bool
	}{
		"plain": {
			line: "42 (kubelet) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1 2 3",
			want: Stat{Identity: Identity{PID: 42, Start: 123456}, Parent: 7, State: 'S'},
		},
		"a command with spaces and parentheses": {
			line: "42 (a) Z (b) c) R 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 99 1",
			want: Stat{Identity: Identity{PID: 42, Start: 99}, Parent: 7, State: 'R'},
		},
		"cut short":      {line: "42 (kubelet) S 7 42", wantErr: true},
		"no command":     {line: "42 kubelet S 7", wantErr: true},
		"not a pid":      {line: "x (kubelet) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 1 1", wantErr: true},
		"empty":          {wantErr: true},
		"negative start": {line: "42 (a) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 -1 1", wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat(tc.line)
			if (err != nil) != tc.wantErr {
				t.Fatalf("parseStat() error = %v, want error %t", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("parseStat() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKillEndsOnlyTheProcessItNames(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo started; read line; echo survived")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stat, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if stat.Parent != os.Getpid() {
		t.Errorf("parent = %d, want %d", stat.Parent, os.Getpid())
	}
	reused := Identity{PID: stat.PID, Start: stat.Start + 1}
	if reused.Alive() {
		t.Error("a process with another start counts as alive")
	}
	if err := reused.Kill(t.Context()); err != nil {
		t.Errorf("Kill() of another process: %v", err)
	}
	if !stat.Alive() {
		t.Fatal("the process ended with another one's identity")
	}
	if err := stat.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stat.Alive() {
		t.Error("the process is alive after Kill()")
	}
	stdin.Close()
	if line, err := lines.ReadString('\n'); err == nil {
		t.Errorf("the process went on and wrote %q", line)
	}
	if cmd.Wait() == nil {
		t.Error("the process ended by itself")
	}
	if err := stat.Kill(t.Context()); err != nil {
		t.Errorf("Kill() of an ended process: %v", err)
	}
}

func TestChildrenNamesOwnProcesses(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	children, err := Children(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got := children["cat"].PID; got != cmd.Process.Pid {
		t.Errorf("Children() = %v, want cat as %d", children, cmd.Process.Pid)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestZeroIdentityIsNotAlive(t *testing.T) {
	if (Identity{}).Alive() {
		t.Error("the zero identity is alive")
	}
}
