package docs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	root = "../.."
	// patience bounds one block of a page.
	patience = time.Minute
)

func pages(t *testing.T) map[string][]*Block {
	t.Helper()
	names, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]*Block{}
	for _, page := range names {
		if all[page], err = Read(root, page); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestPages plays every page on this machine, without a cluster: what is for one is left to test/e2e.
func TestPages(t *testing.T) {
	if testing.Short() {
		return
	}
	tools := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(tools, "built"), "./cmd/kubectl-weft")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := Tools(tools, filepath.Join(tools, "built")); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for page, blocks := range pages(t) {
		var here []*Block
		for _, b := range blocks {
			switch {
			case !b.Commands() || b.Is("cluster"):
			case Elsewhere[Place(b)] != "":
				named[Place(b)] = true
			default:
				here = append(here, b)
			}
		}
		if len(here) > 0 {
			t.Run(page, func(t *testing.T) { play(t, tools, here) })
		}
	}
	for block := range Elsewhere {
		if !named[block] {
			t.Errorf("no page has the block %q", block)
		}
	}
}

func play(t *testing.T, tools string, blocks []*Block) {
	t.Parallel()
	dir := t.TempDir()
	// A reader may change examples.
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS(filepath.Join(root, "examples"))); err != nil {
		t.Fatal(err)
	}
	s, err := Start(context.WithoutCancel(t.Context()), Setting{
		Dir: dir, Isolated: true, Patience: patience,
		Env: []string{"PATH=" + tools + ":" + os.Getenv("PATH"), "KUBECONFIG=" + filepath.Join(dir, "none"), "HOME=" + dir},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, b := range blocks {
		if err := s.Play(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMakeTargets: what pages have readers make can be made, also where no test makes it.
func TestMakeTargets(t *testing.T) {
	for page, blocks := range pages(t) {
		for _, b := range blocks {
			for line := range strings.Lines(strings.ReplaceAll(b.Text, "\\\n", " ")) {
				if !b.Commands() || !strings.HasPrefix(line, "make ") {
					continue
				}
				cmd := exec.CommandContext(t.Context(), "bash", "-c", "make --no-print-directory -n"+strings.TrimPrefix(line, "make"))
				cmd.Dir = root
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v\n%s", page, line, err, out)
				}
			}
		}
	}
}

// TestOwnTests: a page with a test of its own has commands for a cluster, and others do not hide in the list.
func TestOwnTests(t *testing.T) {
	all := pages(t)
	for page, by := range OwnTests {
		if !slices.ContainsFunc(all[page], func(b *Block) bool { return b.Commands() && b.Is("cluster") }) {
			t.Errorf("%s has no commands for %s", page, by)
		}
		file, name, _ := strings.Cut(by, " ")
		sources, err := filepath.Glob(filepath.Join(root, file, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(sources, func(source string) bool {
			text, err := os.ReadFile(source)
			return err == nil && strings.Contains(string(text), "func "+name+"(") && strings.Contains(string(text), filepath.Base(page))
		}) {
			t.Errorf("%s: there is no %s that reads it", page, by)
		}
	}
}

// TestInfoStrings: what a page tells the tests is something that they know.
func TestInfoStrings(t *testing.T) {
	words := []string{"cluster", "background", "about"}
	for _, blocks := range pages(t) {
		for _, b := range blocks {
			_, err := b.exit()
			for _, word := range b.Words {
				if b.Commands() && (err != nil || !slices.Contains(words, word) && !strings.HasPrefix(word, "exit=")) {
					t.Errorf("%s: nobody knows the word %q", b, word)
				}
			}
			if !b.Commands() && (b.Language == "" || b.Language == "text") && !b.Output && strings.HasPrefix(b.Text, "kubectl ") && !strings.Contains(b.Text, "[flags]") {
				t.Errorf("%s: commands are marked as sh, so that they are run", b)
			}
		}
	}
}

func TestParse(t *testing.T) {
	blocks, err := parse("page.md", "## Do it\n\n```sh cluster exit=3\nkubectl a\n\nkubectl b\n```\n\n```\nshown\n```\n\n1. in a list\n   ```yaml\n   a:\n     b: 1\n   ```\n\n```sh\nc\n```\ntext\n```\nno output\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) != 5 {
		t.Fatalf("%d blocks, want 5", len(blocks))
	}
	if b := blocks[0]; b.String() != "page.md:3" || b.Section != "Do it" || b.Text != "kubectl a\n\nkubectl b" || !b.Commands() || !b.Is("cluster") || b.Shown != "shown" {
		t.Errorf("the first block: %+v", b)
	}
	if code, err := blocks[0].exit(); code != 3 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	if !blocks[1].Output || blocks[1].Commands() || blocks[4].Output || blocks[3].Shown != "" {
		t.Errorf("what commands write: %+v, %+v, %+v", blocks[1], blocks[3], blocks[4])
	}
	if b := blocks[2]; b.Language != "yaml" || b.Text != "a:\n  b: 1" {
		t.Errorf("in a list: %+v", b)
	}
	if _, err := parse("page.md", "```sh\nx\n"); err == nil {
		t.Error("a block without an end is read")
	}
}

func TestDiffers(t *testing.T) {
	for name, tc := range map[string]struct {
		shown, written string
		about, begins  bool
		same           bool
	}{
		"the same":                {shown: "a b\nc", written: "a   b\nc\n", same: true},
		"another word":            {shown: "a b", written: "a c"},
		"a line more":             {shown: "a", written: "a\nb"},
		"a line more, so far":     {shown: "a", written: "a\nb", begins: true, same: true},
		"half a line, so far":     {shown: "a", written: "ab", begins: true},
		"any text":                {shown: "a ... c", written: "a b d c", same: true},
		"any lines":               {shown: "a\n...\nc", written: "a\nb\nd\nc", same: true},
		"any lines, but not here": {shown: "a\n...\nc", written: "a\nb\nb"},
		"times":                   {shown: "12:00:00.000 took 3.12ms", written: "13:01:01.123 took 1.5ms", same: true},
		"a timeout":               {shown: "7s", written: "8s"},
		"names of pods":           {shown: "shop/weft-proxy-7c9d8b6f5d-x2x7k at 10.244.2.9:8088", written: "shop/weft-proxy-6b8c9d7f5c-abcde at 10.244.1.7:8088", same: true},
		"a number":                {shown: "90 v1", written: "87 v1"},
		"about a number":          {shown: "90 v1\n10 v2", written: "87 v1\n13 v2", about: true, same: true},
		"not about a number":      {shown: "90 v1\n10 v2", written: "50 v1\n50 v2", about: true},
		"a character of patterns": {shown: "a.b", written: "axb"},
	} {
		if got := differs(tc.shown, tc.written, tc.about, tc.begins); (got == "") != tc.same {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestSession: what a block writes and exports counts, and how it ends.
func TestSession(t *testing.T) {
	s, err := Start(t.Context(), Setting{Dir: t.TempDir(), Isolated: true, Patience: patience, Replace: []string{"NAME", "somebody"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		block Block
		wrong string
	}{
		{block: Block{Text: "export X='a b'"}},
		{block: Block{Text: "echo $X NAME", Shown: "a b somebody"}},
		{block: Block{Text: "false\necho never"}, wrong: "exit code 1, want 0"},
		{block: Block{Text: "false | true"}, wrong: "exit code 1, want 0"},
		{block: Block{Text: "exit 3", Words: []string{"exit=3"}}},
		{block: Block{Text: "ip -o link | wc -l", Shown: "1"}},
		{block: Block{Text: "touch begun; sleep 600 & wait", Words: []string{"background"}}},
		{block: Block{Text: "bash -c 'echo ready; sleep 600'", Words: []string{"background"}, Shown: "ready"}},
		// The page is true a moment later.
		{block: Block{Text: "[ -e late ] && echo late && exit; touch late; echo early", Shown: "late"}},
	} {
		err := s.Play(t.Context(), &tc.block)
		if tc.wrong == "" && err != nil || tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)) {
			t.Errorf("%s: %v, want %q", tc.block.Text, err, tc.wrong)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
