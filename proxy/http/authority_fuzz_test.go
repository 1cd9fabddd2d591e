package http

import (
	"net/url"
	"testing"
)

// FuzzCheckAuthority checks that what is taken for an authority is nothing but that to others, too.
func FuzzCheckAuthority(f *testing.F) {
	for _, seed := range []string{"h", "h:80", "[::1]:80", "u@h", "h/a", "h%41", "[::1", "h:a", "a,b", "h\\x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		if CheckAuthority(authority) != nil {
			return
		}
		u, err := url.Parse("http://" + authority + "/path")
		if err != nil {
			// net/url takes fewer: no escapes that it cannot decode in a host.
			return
		}
		if u.User != nil || u.Path != "/path" || u.RawQuery != "" || u.Fragment != "" || u.Hostname() == "" {
			t.Errorf("%q is taken for an authority, and parsed as %#v", authority, u)
		}
	})
}
