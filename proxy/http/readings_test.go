package http

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadPath(t *testing.T) {
	for path, want := range map[string][Readings]string{
		"/":               {"/", "/", "/", "/"},
		"*":               {"*", "*", "*", "*"},
		"/a/b":            {"/a/b", "/a/b", "/a/b", "/a/b"},
		"/a%2Fb":          {"/a%2Fb", "/a/b", "/a/b", "/a/b"},
		"/a%252Fb":        {"/a%252Fb", "/a%2Fb", "/a%2Fb", "/a%2Fb"},
		"//a//b/":         {"//a//b/", "//a//b/", "/a/b/", "/a/b/"},
		"/a%2F..%2Fb":     {"/a%2F..%2Fb", "/b", "/b", "/b"},
		"/a//..%2Fb":      {"/a//..%2Fb", "/a/b", "/b", "/b"},
		"/a%5C..%5Cb":     {"/a%5C..%5Cb", `/a\..\b`, "/b", "/b"},
		"/a;v=1/b;w":      {"/a;v=1/b;w", "/a;v=1/b;w", "/a;v=1/b;w", "/a/b"},
		"/a/..;/b":        {"/a/..;/b", "/a/..;/b", "/a/..;/b", "/b"},
		"/a/..%3B/b":      {"/a/..%3B/b", "/a/..;/b", "/a/..;/b", "/b"},
		"/%2F..%2F..%2Fa": {"/%2F..%2F..%2Fa", "/a", "/a", "/a"},
	} {
		if diff := cmp.Diff(want, ReadPath(path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// FuzzReadPath: what is read is a path, and reading what is normal already changes nothing about where it leads.
func FuzzReadPath(f *testing.F) {
	for _, seed := range []string{"/", "/a%2f..%2fb", "//a;b/..;/c", "/%5c%5c", "/%25%2e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		normal, err := NormalizePath(path)
		if err != nil {
			return
		}
		read := ReadPath(normal)
		if read[0] != normal {
			t.Errorf("%q is read as %q", normal, read[0])
		}
		for i, p := range read {
			if p == "" || p[0] != '/' {
				t.Errorf("reading %d of %q is %q", i, normal, p)
			}
			if i > 0 && hasDotSegment(p) {
				t.Errorf("reading %d of %q, %q, leads elsewhere", i, normal, p)
			}
		}
	})
}
