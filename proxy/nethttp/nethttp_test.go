package nethttp_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

func TestHeader(t *testing.T) {
	fields := phttp.Header{{Name: "x-b", Value: "1"}, {Name: "X-A", Value: "2"}, {Name: "X-B", Value: "3"}, {Name: "x-c", Value: "4"}}
	h := nethttp.Header(fields)
	if diff := cmp.Diff(http.Header{"X-A": {"2"}, "X-B": {"1", "3"}, "X-C": {"4"}}, h); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	h.Add("X-A", "5")
	if got := h.Get("X-C"); got != "4" {
		t.Errorf("X-C is %q after a value was added to X-A", got)
	}
}

func TestFields(t *testing.T) {
	h := http.Header{"X-B": {"1", "3"}, "X-A": {"2"}, "User-Agent": {""}, http.TrailerPrefix + "X-End": {"end"}}
	want := phttp.Header{{Name: "X-A", Value: "2"}, {Name: "X-B", Value: "1"}, {Name: "X-B", Value: "3"}}
	if diff := cmp.Diff(want, nethttp.Fields(h)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestTrailer(t *testing.T) {
	h := http.Header{"X-Sum": {"1"}, "X-Other": {"2"}, http.TrailerPrefix + "X-End": {"a", "b"}}
	want := phttp.Header{{Name: "X-End", Value: "a"}, {Name: "X-End", Value: "b"}, {Name: "X-Sum", Value: "1"}}
	if diff := cmp.Diff(want, nethttp.Trailer(h, []string{" x-sum ,", "X-Absent"})); diff != "" {
		t.Errorf("trailer (-want +got):\n%s", diff)
	}
	if got := nethttp.Trailer(http.Header{"X-Sum": {"1"}}, nil); got != nil {
		t.Errorf("trailer = %v of a response that has announced none", got)
	}
}
