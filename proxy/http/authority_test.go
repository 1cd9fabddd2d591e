package http

import "testing"

func TestCheckAuthority(t *testing.T) {
	for _, authority := range []string{
		"h", "h:80", "h:", "h.example.", "192.0.2.1:1", "[::1]", "[2001:db8::1]:80", "a_b", "a%41", "a!$&'()*+,;=-._~",
	} {
		if err := CheckAuthority(authority); err != nil {
			t.Errorf("%q is refused: %v", authority, err)
		}
	}
	for _, authority := range []string{
		"", ":80", "h:x", "h:+1", "h:1:1", "::1", "[::1", "::1]", "[::1]x", "[h]", "[fe80::1%25eth0]", "[192.0.2.1]", "[]", "h/", "h?", "h#",
		"u@h", "h h", "h\t", "h%", "h%4", "h%zz", `h\`, `"h"`, "<h>", "h\x00", "h\x7f", "h\xff",
	} {
		if CheckAuthority(authority) == nil {
			t.Errorf("%q is accepted", authority)
		}
	}
}

func TestCountForward(t *testing.T) {
	for _, tc := range []struct {
		method, value, want string
		forward             bool
	}{
		{"OPTIONS", "9", "8", true}, {"TRACE", "1", "0", true}, {"TRACE", "0", "0", false}, {"OPTIONS", "00", "00", false},
		{"GET", "0", "0", true}, {"OPTIONS", "-1", "-1", true}, {"OPTIONS", "x", "x", true}, {"OPTIONS", "", "", true},
	} {
		r := Request{Method: tc.method, Header: Header{{"max-forwards", tc.value}}}
		if forward := r.CountForward(); forward != tc.forward || r.Header.Get("Max-Forwards") != tc.want {
			t.Errorf("%s with %q: forwarded %t with %q", tc.method, tc.value, forward, r.Header.Get("Max-Forwards"))
		}
	}
}

func TestMayTrail(t *testing.T) {
	for name, want := range map[string]bool{
		"Grpc-Status": true, "X-Checksum": true, "Content-Length": false, "TRANSFER-ENCODING": false, "host": false,
		"Authorization": false, "X-Forwarded-For": false, "Set-Cookie": false, "X T": false, "": false, "X\x00": false,
	} {
		if MayTrail(name) != want {
			t.Errorf("%s may trail: %t", name, !want)
		}
	}
}
