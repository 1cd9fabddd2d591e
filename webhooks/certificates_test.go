package webhooks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCertMode(t *testing.T) {
	empty, filled := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(filled, "tls.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filled, "tls.crt")
	cases := map[string]struct {
		mode    CertMode
		path    string
		want    CertMode
		wantErr string
	}{
		"nothing said":               {"", filled, CertSelf, ""},
		"self, whatever is there":    {CertSelf, filled, CertSelf, ""},
		"provided, not there yet":    {CertProvided, empty, CertProvided, ""},
		"auto, provided":             {CertAuto, filled, CertProvided, ""},
		"auto, an empty directory":   {CertAuto, empty, CertSelf, ""},
		"auto, no directory":         {CertAuto, filepath.Join(empty, "none"), CertSelf, ""},
		"auto, not to be looked for": {CertAuto, file, "", "look for a webhook certificate"},
		"another word":               {"olm", filled, "", "none of self, provided and auto"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.mode.resolve(tc.path)
			if got != tc.want {
				t.Errorf("mode %q, want %q", got, tc.want)
			}
			if (err != nil) != (tc.wantErr != "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("error %v, want %q", err, tc.wantErr)
			}
		})
	}
}
