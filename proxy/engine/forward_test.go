package engine

import (
	"net/http"
	"testing"

	"weft.dev/weft/proxy/wire"
)

func TestServiceWithoutRoutesIsForwarded(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	got := get(t, p.listen(key("cart")), "/")
	if got.status != http.StatusOK || got.body != "cart" {
		t.Errorf("answer = %v, want 200 from cart", got)
	}
}
