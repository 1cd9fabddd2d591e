//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/docs"
	"weft.dev/weft/test/e2e/testbed"
)

// TestNewcomer follows docs/first-failure.md to the letter: from what make demo leaves, break a backend, and find it in
// three commands.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	all, err := docs.Read(bed.Path(t), "docs/first-failure.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, b := range all {
		if b.Commands() {
			blocks = append(blocks, b.Text)
		}
	}
	if len(blocks) != 8 {
		t.Fatalf("the page has %d blocks of commands, want 8", len(blocks))
	}
	setUp, send, breakIt, stat, tap, why, repair, again := blocks[0], blocks[1], blocks[2], blocks[3], blocks[4], blocks[5], blocks[6], blocks[7]
	shell := func(ctx context.Context, command string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "bash", "-ec", setUp+"\n"+command)
		cmd.Dir = bed.Path(t)
		return cmd
	}
	run := func(command string) (string, error) {
		out, err := shell(t.Context(), command).CombinedOutput()
		return string(out), err
	}
	demo := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "weft-demo"}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
		defer cancel()
		err := client.IgnoreNotFound(bed.Client.Delete(ctx, demo))
		if err == nil {
			err = testbed.Poll(ctx, func(ctx context.Context) error {
				if err := bed.Client.Get(ctx, client.ObjectKeyFromObject(demo), demo); !apierrors.IsNotFound(err) {
					return errors.Join(errors.New("the demo's namespace is still there"), err)
				}
				return nil
			})
		}
		if err != nil {
			t.Error(err)
		}
	})
	if out, err := run("go run ./test/demo -requests 4000"); err != nil || strings.Count(out, "demo: ok") != 4 {
		t.Fatalf("make demo: %v\n%s", err, out)
	}

	sending, stop := context.WithCancel(t.Context())
	sender := shell(sending, "exec "+send)
	if err := sender.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = sender.Wait() // it was killed
	})
	if out, err := run(breakIt); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The first commands may be quicker than the Service.
	testbed.Eventually(t, func(context.Context) error {
		out, err := run(stat)
		if err != nil || !regexp.MustCompile(`(?m)^weft-demo/web:80 .* 0\.00 %`).MatchString(out) {
			return errors.Join(fmt.Errorf("%s says:\n%s", stat, out), err)
		}
		return nil
	})
	out, err := run(tap)
	told := "connect_failure "
	if pods, err := bed.Pods(t.Context(), demo.Name, nil); err != nil {
		t.Fatal(err)
	} else if slices.ContainsFunc(pods, func(p *testbed.Pod) bool { return p.Beside }) {
		told = "" // the caller's own proxy passes on what the one beside the pod has said, which knows why
	}
	line := regexp.MustCompile(`503 GET web/ .*` + told + `-> weft-demo/web-v2:80 from .* id ([A-Z0-9]+)`).FindStringSubmatch(out)
	if err != nil || line == nil {
		t.Fatalf("%s: %v\n%s", tap, err, out)
	}
	out, err = run(strings.ReplaceAll(why, "REQUEST-ID", line[1]))
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 1 {
		t.Errorf("%s ended with %v, want exit code 1: the request has failed", why, err)
	}
	for _, text := range []string{"HTTPRoute/weft-demo/web", "weft-demo/web-v2:80", ":8088", "connect_failure", "Check that the pods listen on the Service's target port."} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is missing in what %s says:\n%s", text, why, out)
		}
	}
	if out, err := run(repair); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	testbed.Eventually(t, func(context.Context) error {
		out, err := run(again)
		if err != nil || !regexp.MustCompile(`(?m)^weft-demo/web:80 .* 100\.00 %`).MatchString(out) {
			return errors.Join(fmt.Errorf("%s says:\n%s", again, out), err)
		}
		return nil
	})
}
