package http

import "testing"

func TestPartsOfARequest(t *testing.T) {
	req := &Request{
		Authority: "web.shop", RawQuery: "a=1&b=x%20y&a=2&empty",
		Header: Header{
			{"X-User", "ada"}, {"x-list", "1"}, {"X-List", "2"},
			{"Cookie", "theme=dark; sid=abc"}, {"cookie", "sid=late;quoted=\"q=1\""},
		},
	}
	for name, tc := range map[string]struct {
		part func(string) string
		name string
		want string
	}{
		"header":                {req.Field, "x-user", "ada"},
		"header of two lines":   {req.Field, "X-List", "1,2"},
		"absent header":         {req.Field, "x-none", ""},
		"host":                  {req.Field, "Host", "web.shop"},
		"query parameter":       {req.Query, "a", "1"},
		"encoded parameter":     {req.Query, "b", "x y"},
		"parameter of no value": {req.Query, "empty", ""},
		"absent parameter":      {req.Query, "c", ""},
		"cookie":                {req.Cookie, "theme", "dark"},
		"the first cookie":      {req.Cookie, "sid", "abc"},
		"cookie in two fields":  {req.Cookie, "quoted", `"q=1"`},
		"cookie in wrong case":  {req.Cookie, "SID", ""},
		"absent cookie":         {req.Cookie, "none", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.part(tc.name); got != tc.want {
				t.Errorf("%s is %q, want %q", tc.name, got, tc.want)
			}
		})
	}
}
