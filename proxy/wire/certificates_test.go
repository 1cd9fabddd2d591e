package wire

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// certificate returns a certificate in PEM, and its key.
func certificate(tb testing.TB) (text, keyText string) {
	tb.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(nil, template, template, public, key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}

func TestParseCertificates(t *testing.T) {
	one, key := certificate(t)
	two, _ := certificate(t)
	for name, tc := range map[string]struct {
		text string
		want int
		err  string
	}{
		"one":                       {text: one, want: 1},
		"two":                       {text: one + two, want: 2},
		"text around them":          {text: "# ours: Zürich\r\n" + one + "\n\tand theirs\n" + two + "\n", want: 2},
		"nothing":                   {err: "no PEM certificate"},
		"text alone":                {text: "certificates", err: "no PEM certificate"},
		"a key among them":          {text: one + key, err: `type "PRIVATE KEY"`},
		"a block that is cut off":   {text: one + two[:len(two)/2], err: "1 of 2 PEM blocks"},
		"a block with other bytes":  {text: strings.Replace(one, "M", "!", 1) + two, err: "1 of 2 PEM blocks"},
		"a block without an end":    {text: strings.Replace(one, "-----END", "-----", 1) + two, err: "PEM blocks cannot be read"},
		"bytes that are no text":    {text: one + "\x00\x01", err: "no text"},
		"text that is not UTF-8":    {text: one + "\xff", err: "no text"},
		"a block that is something": {text: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", err: "certificate 1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseCertificates(tc.text)
			if len(got) != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%d certificates, error %v; want %d, error with %q", len(got), err, tc.want, tc.err)
			}
		})
	}
}

func FuzzParseCertificates(f *testing.F) {
	good, _ := certificate(f)
	f.Add(good)
	f.Add(good + good)
	f.Add(good[:len(good)-3])
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		certificates, err := ParseCertificates(text)
		if err != nil {
			return
		}
		if begun := strings.Count(text, "-----BEGIN"); len(certificates) != begun || begun == 0 {
			t.Errorf("%d certificates of %d blocks", len(certificates), begun)
		}
		// Nothing follows a bundle that was accepted and is still one.
		if _, err := ParseCertificates(text + "\n-----BEGIN CERTIFICATE-----\n"); err == nil {
			t.Error("a bundle that is cut off was accepted")
		}
	})
}
