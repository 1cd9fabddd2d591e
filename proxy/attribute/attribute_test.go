package attribute

import (
	"strings"
	"testing"
)

func TestRedactQuery(t *testing.T) {
	for query, want := range map[string]string{
		"":                  "",
		"a=1":               "a=REDACTED",
		"token=x&page=2":    "token=REDACTED&page=REDACTED",
		"secret":            "REDACTED",
		"a=1=2&&b":          "a=REDACTED&&REDACTED",
		"a=%00;drop&b=x%26": "a=REDACTED&b=REDACTED",
	} {
		if got := RedactQuery(query); got != want {
			t.Errorf("RedactQuery(%q) = %q, want %q", query, got, want)
		}
	}
}

func TestMethodsAreBounded(t *testing.T) {
	for method, want := range map[string]string{"GET": "GET", "PATCH": "PATCH", "get": Other, "BREW": Other, "": Other} {
		if got := KnownMethod(method); got != want {
			t.Errorf("KnownMethod(%q) = %q, want %q", method, got, want)
		}
	}
}

func TestTextsAreBounded(t *testing.T) {
	if got := Bound("short"); got != "short" {
		t.Errorf("Bound = %q", got)
	}
	got := Bound(strings.Repeat("a", maxText-1) + "é" + "more")
	if got != strings.Repeat("a", maxText-1) {
		t.Errorf("Bound ends with %q, and has %d bytes", got[len(got)-4:], len(got))
	}
}
