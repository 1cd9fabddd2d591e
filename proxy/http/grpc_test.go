package http

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGRPCResponse(t *testing.T) {
	tests := map[string]struct {
		code    GRPCCode
		message string
		want    Header
	}{
		"plain": {GRPCUnavailable, "no healthy endpoint", Header{
			{"content-type", "application/grpc"}, {"grpc-status", "14"}, {"grpc-message", "no healthy endpoint"},
		}},
		"no message": {GRPCUnimplemented, "", Header{
			{"content-type", "application/grpc"}, {"grpc-status", "12"},
		}},
		"escapes": {GRPCInternal, "100% \n\x7f\u00e9~", Header{
			{"content-type", "application/grpc"}, {"grpc-status", "13"}, {"grpc-message", "100%25 %0A%7F%C3%A9~"},
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := GRPCResponse(tc.code, tc.message)
			if diff := cmp.Diff(&Response{Status: 200, Header: tc.want}, got); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
			if decoded, err := url.PathUnescape(got.Header.Get("grpc-message")); err != nil || decoded != tc.message {
				t.Errorf("a client reads %q (%v), want %q", decoded, err, tc.message)
			}
		})
	}
}

func TestGRPCCodeOf(t *testing.T) {
	for status, want := range map[int]GRPCCode{
		400: GRPCInternal, 401: GRPCUnauthenticated, 403: GRPCPermissionDenied, 404: GRPCUnimplemented,
		429: GRPCUnavailable, 502: GRPCUnavailable, 503: GRPCUnavailable, 504: GRPCUnavailable,
		500: GRPCUnknown, 418: GRPCUnknown,
	} {
		if got := GRPCCodeOf(status); got != want {
			t.Errorf("%d means %d, want %d", status, got, want)
		}
	}
}
