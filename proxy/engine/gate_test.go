package engine

import (
	"net/http"
	"testing"

	phttp "weft.dev/weft/proxy/http"
)

// FuzzTarget checks that what was matched is what is sent, byte for byte.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/", "/a%2Fb?c=d", "//a", "/a?", "/%41/../b", "/ü|^`{}", "/a;b=c", "/[a]", "*", "/a??", "/a?%zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		head := phttp.Request{Method: http.MethodOptions, Authority: "cart"}
		if head.SetTarget(target) != nil {
			return
		}
		if got := targetURL(&head).RequestURI(); got != head.Target() {
			t.Errorf("target %q was matched as %q and sent as %q", target, head.Target(), got)
		}
	})
}
