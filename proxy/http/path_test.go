package http

import (
	"strings"
	"testing"
)

func TestNormalizePath(t *testing.T) {
	tests := map[string]struct{ path, want string }{
		"normal":                          {"/a/b.c/d-e_f~g", "/a/b.c/d-e_f~g"},
		"every character a path may hold": {"/!$&'()*+,;=:@", "/!$&'()*+,;=:@"},
		"empty":                           {"", "/"},
		"trailing slash stays":            {"/a/", "/a/"},
		"empty segments stay":             {"//a///b//", "//a///b//"},
		"dot":                             {"/a/./b", "/a/b"},
		"dot at the end":                  {"/a/.", "/a/"},
		"two dots":                        {"/a/b/../c", "/a/c"},
		"two dots at the end":             {"/a/b/..", "/a/"},
		"two dots above the root":         {"/../../a", "/a"},
		"two dots alone":                  {"/..", "/"},
		"two dots take an empty segment":  {"/a//../b", "/a/b"},
		"three dots are a name":           {"/a/.../b", "/a/.../b"},
		"hidden file":                     {"/.well-known/..x/.y", "/.well-known/..x/.y"},
		"hidden file and two dots":        {"/.a/../b", "/b"},
		"encoded two dots":                {"/a/%2e%2E/b", "/b"},
		"half encoded two dots":           {"/a/.%2e/b", "/b"},
		"encoded dot":                     {"/a/%2e/b", "/a/b"},
		"encoded unreserved":              {"/%61%7E%5f%2D%39", "/a~_-9"},
		"encoded slash stays":             {"/a%2Fb", "/a%2Fb"},
		"encoded slash in upper case":     {"/a%2fb", "/a%2Fb"},
		"encoded slash hides no dots":     {"/a/..%2fb", "/a/..%2Fb"},
		"encoded backslash stays":         {"/a%5cb", "/a%5Cb"},
		"encoded sub-delimiter stays":     {"/a%3Bb%26", "/a%3Bb%26"},
		"encoded percent stays":           {"/100%25", "/100%25"},
		"no second decoding":              {"/%252e%252e/a", "/%252e%252e/a"},
		"backslash":                       {`/a/..\b`, "/a/..%5Cb"},
		"other ASCII":                     {`/"<>[]^{|}` + "`", "/%22%3C%3E%5B%5D%5E%7B%7C%7D%60"},
		"bytes beyond ASCII":              {"/caf\u00e9", "/caf%C3%A9"},
		"parameters":                      {"/a;v=1/..;x/b", "/a;v=1/..;x/b"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := NormalizePath(tc.path)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("%q became %q, want %q", tc.path, got, tc.want)
			}
		})
	}
}

func TestNormalizePathRefuses(t *testing.T) {
	for name, path := range map[string]string{
		"no slash":            "a",
		"absolute form":       "http://a/",
		"short escape":        "/a%2",
		"lone percent":        "/a%",
		"no hex":              "/%zz",
		"half hex":            "/%2g",
		"encoded NUL":         "/a%00",
		"NUL":                 "/a\x00",
		"line break":          "/a\nb",
		"space":               "/a b",
		"DEL":                 "/a\x7f",
		"query":               "/a?b",
		"fragment":            "/a#b",
		"NUL before two dots": "/a%00/..",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := NormalizePath(path); err == nil {
				t.Errorf("%q became %q, want an error", path, got)
			}
		})
	}
}

func TestNormalPathIsNotCopied(t *testing.T) {
	path := "/" + strings.Repeat("segment/.x/", 20)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := NormalizePath(path); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a normal path costs %v allocations, want none", n)
	}
}
