package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// patience is how long the cluster may take for anything that is waited for.
const patience = 3 * time.Minute

// kubectl runs commands against one cluster.
type kubectl struct {
	// command is the program and the arguments that come before all others.
	command []string
}

// run runs a command and returns what it wrote.
func (k kubectl) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := k.prepare(ctx, args)
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, commandError(args, err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// stream runs a command and calls line with every line that it writes.
func (k kubectl) stream(ctx context.Context, line func([]byte) error, args ...string) error {
	cmd := k.prepare(ctx, args)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("kubectl: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("kubectl: %w", err)
	}
	err = eachLine(stdout, line)
	if err != nil {
		// Nobody reads what else it writes.
		_ = cmd.Process.Kill()
	}
	if waited := cmd.Wait(); waited != nil && err == nil {
		err = commandError(args, waited, stderr.String())
	}
	return err
}

func (k kubectl) prepare(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.command[0], slices.Concat(k.command[1:], args)...)
	cmd.WaitDelay = time.Second
	return cmd
}

func commandError(args []string, err error, stderr string) error {
	return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr))
}

// eachLine decodes a stream of JSON documents, one by one.
func eachLine(r io.Reader, line func([]byte) error) error {
	decoder := json.NewDecoder(r)
	for {
		var document json.RawMessage
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = line(document)
		}
		if err != nil {
			return err
		}
	}
}

// get reads an object, or a list of objects, into v.
func (k kubectl) get(ctx context.Context, v any, args ...string) error {
	data, err := k.run(ctx, nil, append([]string{"-n", namespace, "get", "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("kubectl get %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// await asks until the answer is no error; then, or after patience, it returns what was last said.
func await(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %w", err)
		}
	}
}
