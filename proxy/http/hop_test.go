package http

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStripHopByHop(t *testing.T) {
	tests := map[string]struct {
		received Header
		upgrade  bool
		want     Header
	}{
		"nothing to strip": {
			received: Header{{"accept", "*/*"}, {"X-A", "1"}},
			want:     Header{{"accept", "*/*"}, {"X-A", "1"}},
		},
		"headers of one connection": {
			received: Header{
				{"Connection", "keep-alive"}, {"Keep-Alive", "timeout=5"}, {"proxy-connection", "close"},
				{"TE", "gzip"}, {"Transfer-Encoding", "chunked"}, {"Upgrade", "h2c"}, {"x-a", "1"},
			},
			want: Header{{"x-a", "1"}},
		},
		"headers that Connection names": {
			received: Header{
				{"connection", "close, X-One ,,x-two"}, {"CONNECTION", "x-three"},
				{"x-one", "1"}, {"X-Two", "2"}, {"x-three", "3"}, {"x-four", "4"},
			},
			want: Header{{"x-four", "4"}},
		},
		"headers that Connection must not name": {
			received: Header{
				{"Connection", "Host, Content-Length, authorization, Forwarded, X-Forwarded-For, Weft-Source"},
				{"Content-Length", "3"}, {"Authorization", "b"}, {"Forwarded", "c"}, {"X-Forwarded-For", "d"}, {"weft-source", "e"},
			},
			want: Header{{"Content-Length", "3"}, {"Authorization", "b"}, {"Forwarded", "c"}, {"X-Forwarded-For", "d"}, {"weft-source", "e"}},
		},
		"TE keeps trailers and nothing else": {
			received: Header{{"te", "gzip;q=0.5, Trailers"}, {"a", "b"}},
			want:     Header{{"a", "b"}, {"TE", "trailers"}},
		},
		"TE keeps trailers even if Connection names it": {
			received: Header{{"Connection", "TE"}, {"TE", "trailers"}},
			want:     Header{{"TE", "trailers"}},
		},
		"an upgrade keeps Upgrade": {
			received: Header{{"Connection", "Upgrade, x-one"}, {"Upgrade", "websocket"}, {"X-One", "1"}, {"Sec-WebSocket-Key", "k"}},
			upgrade:  true,
			want:     Header{{"Upgrade", "websocket"}, {"Sec-WebSocket-Key", "k"}},
		},
		"headers of authentication to a proxy are for whichever proxy asked": {
			received: Header{{"Proxy-Authorization", "a"}, {"Proxy-Authenticate", "b"}},
			want:     Header{{"Proxy-Authorization", "a"}, {"Proxy-Authenticate", "b"}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			StripHopByHop(&tc.received, tc.upgrade)
			if diff := cmp.Diff(tc.want, tc.received); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStripInternal(t *testing.T) {
	h := Header{{"Weft-Source", "spiffe://x"}, {"weft", "kept"}, {"x-weft-", "kept"}, {"weft-", "gone"}, {"WEFT-ATTEMPT", "2"}}
	StripInternal(&h)
	if diff := cmp.Diff(Header{{"weft", "kept"}, {"x-weft-", "kept"}}, h); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}
