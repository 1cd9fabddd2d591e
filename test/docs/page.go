// Package docs reads the pages of the documentation and runs the commands that they show, as a reader would: one block
// after the other, from the top of the page. What it runs, and on what, is up to the tests that use it: those of this
// package need no cluster, those of test/e2e have one.
//
// A page says in the info strings of its fences what the tests have to know; nobody who reads the rendered page sees it:
//
//	```sh              commands that need no cluster
//	```sh cluster      commands for a cluster
//	```sh background   a command that goes on until the page ends, like one in a terminal of its own
//	```sh exit=1       commands that end with this exit code
//	```sh about        numbers of the output are about those that are shown
//
// A block without language, or with "text", that directly follows commands is what they write. There "..." stands for any
// text of a line, or alone in its line for any lines; what differs from run to run (times, addresses, names of pods and
// ids of requests) may be anything of its kind.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Block is a fenced block of a page.
type Block struct {
	// Page is relative to the checkout, Line that of the fence.
	Page string
	Line int
	// Section is the heading above it.
	Section string
	// Language is the first word of the info string, Words are the others.
	Language string
	Words    []string
	Text     string
	// Shown is what a block of commands writes, if the page shows it.
	Shown string
	// Output tells that the block is Shown of the one before.
	Output bool
}

// String says where the block is.
func (b *Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// Commands tells whether the block is for a shell.
func (b *Block) Commands() bool {
	return slices.Contains([]string{"sh", "shell", "bash", "console"}, b.Language)
}

// Is tells whether the info string has a word.
func (b *Block) Is(word string) bool { return slices.Contains(b.Words, word) }

// exit returns the exit code that the block must end with.
func (b *Block) exit() (int, error) {
	for _, word := range b.Words {
		if code, ok := strings.CutPrefix(word, "exit="); ok {
			return strconv.Atoi(code)
		}
	}
	return 0, nil
}

// Pages lists the pages of a checkout that have something to run or to copy: its README and those of docs, examples and
// test, sorted.
func Pages(root string) ([]string, error) {
	pages := []string{"README.md"}
	for _, folder := range []string{"docs", "examples", "test"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
				return err
			}
			page, err := filepath.Rel(root, path)
			pages = append(pages, filepath.ToSlash(page))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("find pages: %w", err)
		}
	}
	slices.Sort(pages)
	return pages, nil
}

// Read returns the blocks of a page of a checkout in their order.
func Read(root, page string) ([]*Block, error) {
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, fmt.Errorf("read a page: %w", err)
	}
	return parse(page, string(text))
}

// parse reads fenced code blocks of CommonMark, section 4.5, as far as our pages use them: with backquotes.
func parse(page, text string) ([]*Block, error) {
	const fence = "```"
	var blocks []*Block
	var open *Block
	var lines []string
	indent, section := "", ""
	// direct is the block that ended last, as long as only empty lines have followed.
	var direct *Block
	for i, line := range strings.Split(text, "\n") {
		inner := strings.TrimLeft(line, " ")
		switch {
		case open == nil && strings.HasPrefix(inner, fence):
			info := strings.Fields(strings.TrimLeft(inner, "`"))
			indent = line[:len(line)-len(inner)]
			open, lines = &Block{Page: page, Line: i + 1, Section: section}, nil
			if len(info) > 0 {
				open.Language, open.Words = info[0], info[1:]
			}
			open.Output = direct != nil && direct.Commands() && (open.Language == "" || open.Language == "text")
		case open == nil:
			if strings.TrimSpace(line) != "" {
				direct = nil
			}
			if strings.HasPrefix(line, "#") {
				section = strings.TrimLeft(line, "# ")
			}
		case strings.TrimSpace(line) == fence:
			open.Text = strings.Join(lines, "\n")
			if open.Output {
				direct.Shown = open.Text
			}
			blocks = append(blocks, open)
			direct, open = open, nil
		default:
			lines = append(lines, strings.TrimPrefix(line, indent))
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block does not end", open)
	}
	return blocks, nil
}
