package http

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeaderIsOrderedAndFoldsCase(t *testing.T) {
	received := Header{{"Host-Like", "x"}, {"X-A", "1"}, {"b", "2"}, {"x-a", "3"}, {"Empty", ""}}

	t.Run("reading", func(t *testing.T) {
		if got := received.Get("x-A"); got != "1" {
			t.Errorf("Get returned %q, want the first value", got)
		}
		if diff := cmp.Diff([]string{"1", "3"}, received.Values("X-a")); diff != "" {
			t.Errorf("Values (-want +got):\n%s", diff)
		}
		if !received.Has("empty") || received.Has("absent") {
			t.Error("Has must find an empty header and no absent one")
		}
		if received.Get("absent") != "" || received.Values("absent") != nil {
			t.Error("an absent header has values")
		}
	})

	changes := map[string]struct {
		change func(*Header)
		want   Header
	}{
		"set takes the first place and drops the others": {
			change: func(h *Header) { h.Set("x-A", "new") },
			want:   Header{{"Host-Like", "x"}, {"x-A", "new"}, {"b", "2"}, {"Empty", ""}},
		},
		"set appends what is new": {
			change: func(h *Header) { h.Set("c", "4") },
			want:   Header{{"Host-Like", "x"}, {"X-A", "1"}, {"b", "2"}, {"x-a", "3"}, {"Empty", ""}, {"c", "4"}},
		},
		"add keeps what is there": {
			change: func(h *Header) { h.Add("X-A", "5") },
			want:   Header{{"Host-Like", "x"}, {"X-A", "1"}, {"b", "2"}, {"x-a", "3"}, {"Empty", ""}, {"X-A", "5"}},
		},
		"del removes every line": {
			change: func(h *Header) { h.Del("X-a") },
			want:   Header{{"Host-Like", "x"}, {"b", "2"}, {"Empty", ""}},
		},
	}
	for name, tc := range changes {
		t.Run(name, func(t *testing.T) {
			h := received.Clone()
			tc.change(&h)
			if diff := cmp.Diff(tc.want, h); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
	if received.Get("X-A") != "1" || len(received) != 5 {
		t.Error("changing a clone changed the original")
	}
}

func TestSetTarget(t *testing.T) {
	tests := map[string]struct {
		method, target string
		want           Request
		wantErr        bool
	}{
		"path":                       {target: "/a", want: Request{Path: "/a"}},
		"path and query":             {target: "/a?b=c&d", want: Request{Path: "/a", RawQuery: "b=c&d", HasQuery: true}},
		"empty query":                {target: "/a?", want: Request{Path: "/a", HasQuery: true}},
		"question mark in the query": {target: "/a?b?c", want: Request{Path: "/a", RawQuery: "b?c", HasQuery: true}},
		"path is normalised":         {target: "/x/../a%7e?%7e=..", want: Request{Path: "/a~", RawQuery: "%7e=..", HasQuery: true}},
		"asterisk":                   {method: "OPTIONS", target: "*", want: Request{Path: "*"}},
		"asterisk of another method": {method: "GET", target: "*", wantErr: true},
		"asterisk with query":        {method: "OPTIONS", target: "*?a", wantErr: true},
		"absolute form":              {target: "http://a/b", wantErr: true},
		"fragment in path":           {target: "/a#b", wantErr: true},
		"fragment in query":          {target: "/a?b#c", wantErr: true},
		"line break in query":        {target: "/a?b\r\nc: d", wantErr: true},
		"space in query":             {target: "/a?b c", wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := Request{Method: tc.method}
			err := req.SetTarget(tc.target)
			if (err != nil) != tc.wantErr {
				t.Fatalf("error %v, want one: %v", err, tc.wantErr)
			}
			tc.want.Method = tc.method
			if diff := cmp.Diff(tc.want, req); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTargetRoundTrips(t *testing.T) {
	for _, target := range []string{"/", "/a", "/a?", "/a?b", "/a//b/?c=%20&?", "*"} {
		req := Request{Method: "OPTIONS"}
		if err := req.SetTarget(target); err != nil {
			t.Fatalf("%q: %v", target, err)
		}
		if got := req.Target(); got != target {
			t.Errorf("%q became %q", target, got)
		}
	}
}

func TestIsGRPC(t *testing.T) {
	tests := map[string]bool{
		"application/grpc":               true,
		"application/grpc+proto":         true,
		"Application/GRPC;charset=utf-8": true,
		"application/grpc-web":           false,
		"application/json":               false,
		"":                               false,
	}
	for contentType, want := range tests {
		req := Request{Header: Header{{"Content-Type", contentType}}}
		if got := req.IsGRPC(); got != want {
			t.Errorf("%q is gRPC: %v, want %v", contentType, got, want)
		}
	}
}
