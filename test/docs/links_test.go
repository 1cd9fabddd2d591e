package docs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	code     = regexp.MustCompile("(?ms)^ *```.*?^ *```$|`[^`\n]*`")
	fenced   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	markup   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	unspoken = regexp.MustCompile(`[^\p{L}\p{N}\p{M} _-]`)
)

// anchors are the names that GitHub gives the headings of a page.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		title := markup.ReplaceAllString(match[1], "$1")
		found[strings.ReplaceAll(unspoken.ReplaceAllString(strings.ToLower(title), ""), " ", "-")] = true
	}
	return found
}

// TestLinks: what pages link to in this checkout is there.
func TestLinks(t *testing.T) {
	names, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, page := range names {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		texts[page] = string(text)
	}
	links := 0
	for page, text := range texts {
		for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			links++
			target, anchor, _ := strings.Cut(match[1], "#")
			if target = path.Join(path.Dir(page), target); strings.HasPrefix(match[1], "#") {
				target = page
			}
			if _, err := os.Stat(filepath.Join(root, target)); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s links to %s, which is not there", page, match[1])
			} else if anchor != "" && !anchors(texts[target])[anchor] {
				t.Errorf("%s links to %s, and there is no such heading", page, match[1])
			}
		}
	}
	if links < 100 {
		t.Errorf("only %d links are found", links)
	}
}
