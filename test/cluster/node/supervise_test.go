package node

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const superviseEnv = "WEFT_TEST_SUPERVISE"

// TestMain lets the test binary be a node's first process, which collects every child it has.
func TestMain(m *testing.M) {
	if dir := os.Getenv(superviseEnv); dir != "" {
		units := []Unit{
			{Name: "ending", Command: []string{"sh", "-c", "echo output; echo ran > " + dir + "/pipe"}},
			// An orphan that ends must not be taken for a unit.
			{Name: "forking", Command: []string{"sh", "-c", "(true &); read line < " + dir + "/never"}},
		}
		if err := Supervise(units, dir); err != nil {
			os.Stderr.WriteString(err.Error())
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSuperviseStartsAnEndedUnitAgain(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"pipe", "never"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), superviseEnv+"="+dir)
	// A test that is killed takes its supervisor along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Opened for both directions, so that a run that has ended does not end the pipe.
	pipe, err := os.OpenFile(filepath.Join(dir, "pipe"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	runs := bufio.NewScanner(pipe)
	for range 3 {
		if !runs.Scan() || runs.Text() != "ran" {
			t.Fatalf("the unit said %q: %v", runs.Text(), runs.Err())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait() == nil {
		t.Error("the supervisor ended by itself")
	}
	// End the unit that waits for a line.
	never, err := os.OpenFile(filepath.Join(dir, "never"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer never.Close()
	if _, err := never.WriteString("end\n"); err != nil {
		t.Fatal(err)
	}
	logged, err := os.ReadFile(filepath.Join(dir, "ending.log"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(logged), "output\n"); got < 3 {
		t.Errorf("the log has the output of %d runs, want at least 3", got)
	}
}

func TestSuperviseRefusesAUnitThatDoesNotExist(t *testing.T) {
	err := Supervise([]Unit{{Name: "missing", Command: []string{"/does/not/exist"}}}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("Supervise() = %v, want an error that names the unit", err)
	}
}
