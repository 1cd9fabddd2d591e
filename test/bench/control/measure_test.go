package main

import "testing"

func TestPercentile(t *testing.T) {
	values := []float64{1, 2, 3, 4}
	for p, want := range map[float64]float64{0: 1, 0.5: 2, 0.51: 3, 0.99: 4, 1: 4} {
		if got := percentile(values, p); got != want {
			t.Errorf("the share %g does not exceed %g, want %g", p, got, want)
		}
	}
}

func TestStatusWritesAreTold(t *testing.T) {
	for _, tc := range []struct {
		resource, subresource, verb string
		want                        bool
	}{
		{"httproutes", "status", "PUT", true},
		{"meshes", "status", "PATCH", true},
		{"httproutes", "", "PUT", false},
		{"httproutes", "status", "GET", false},
		{"pods", "status", "PUT", false},
	} {
		if got := isStatusWrite(tc.resource, tc.subresource, tc.verb); got != tc.want {
			t.Errorf("%s of %s/%s: a status write is %t", tc.verb, tc.resource, tc.subresource, got)
		}
	}
}

func TestSizesMustGrow(t *testing.T) {
	for text, valid := range map[string]bool{"100,1000": true, "16": true, "1000,100": false, "15": false, "": false, "many": false} {
		if err := (&options{changes: 1}).parse(text); (err == nil) != valid {
			t.Errorf("sizes %q: %v", text, err)
		}
	}
}
