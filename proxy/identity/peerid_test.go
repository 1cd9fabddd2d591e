package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseID(t *testing.T) {
	for name, tc := range map[string]struct {
		id   string
		want PeerID // zero if invalid
	}{
		"plain":                {"spiffe://cluster.local/ns/shop/sa/cart", PeerID{"cluster.local", "shop", "cart"}},
		"dotted account":       {"spiffe://td/ns/a/sa/b.c-d.e", PeerID{"td", "a", "b.c-d.e"}},
		"underscore in domain": {"spiffe://a_b-c.d/ns/a/sa/b", PeerID{"a_b-c.d", "a", "b"}},
		"empty":                {id: ""},
		"other scheme":         {id: "https://td/ns/a/sa/b"},
		"upper-case scheme":    {id: "SPIFFE://td/ns/a/sa/b"},
		"no trust domain":      {id: "spiffe:///ns/a/sa/b"},
		"upper-case domain":    {id: "spiffe://TD/ns/a/sa/b"},
		"user":                 {id: "spiffe://root@td/ns/a/sa/b"},
		"port":                 {id: "spiffe://td:443/ns/a/sa/b"},
		"query":                {id: "spiffe://td/ns/a/sa/b?x"},
		"fragment":             {id: "spiffe://td/ns/a/sa/b#x"},
		"wildcard domain":      {id: "spiffe://*/ns/a/sa/b"},
		"wildcard namespace":   {id: "spiffe://td/ns/*/sa/b"},
		"wildcard account":     {id: "spiffe://td/ns/a/sa/*"},
		"NUL":                  {id: "spiffe://td/ns/a/sa/b\x00.evil"},
		"percent-encoding":     {id: "spiffe://td/ns/a/sa/%62"},
		"encoded slash":        {id: "spiffe://td/ns/a%2Fsa%2Fb/sa/c"},
		"empty namespace":      {id: "spiffe://td/ns//sa/b"},
		"empty account":        {id: "spiffe://td/ns/a/sa/"},
		"trailing slash":       {id: "spiffe://td/ns/a/sa/b/"},
		"more path":            {id: "spiffe://td/ns/a/sa/b/c"},
		"swapped":              {id: "spiffe://td/sa/b/ns/a"},
		"dot segments":         {id: "spiffe://td/ns/../sa/b"},
		"dotted namespace":     {id: "spiffe://td/ns/a.b/sa/c"},
		"dash at the end":      {id: "spiffe://td/ns/a-/sa/b"},
		"not ASCII":            {id: "spiffe://td/ns/a/sa/ü"},
		"long namespace":       {id: "spiffe://td/ns/" + strings.Repeat("a", 64) + "/sa/b"},
		"long account":         {id: "spiffe://td/ns/a/sa/" + strings.Repeat("a", 254)},
		"long domain":          {id: "spiffe://" + strings.Repeat("a", 256) + "/ns/a/sa/b"},
		"far too long":         {id: "spiffe://td/ns/a/sa/" + strings.Repeat("a", 1<<16)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseID(tc.id)
			if (err == nil) != (tc.want != PeerID{}) || err != nil && !errors.Is(err, ErrInvalidID) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
		})
	}
}

// parsed returns a template as it is read from a certificate.
func parsed(t *testing.T, template x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(1), true
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// named returns the extension of a certificate that holds URI names, as they are.
func named(t *testing.T, uris ...string) x509.Certificate {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: uriName, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: value}}}
}

func TestCertificateID(t *testing.T) {
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	good := uri("spiffe://td/ns/a/sa/b")
	for name, tc := range map[string]struct {
		leaf   x509.Certificate
		wantOK bool
	}{
		"one URI":               {x509.Certificate{URIs: []*url.URL{good}}, true},
		"DNS names beside it":   {x509.Certificate{URIs: []*url.URL{good}, DNSNames: []string{"x"}}, true},
		"none":                  {x509.Certificate{DNSNames: []string{"spiffe://td/ns/a/sa/b"}}, false},
		"two":                   {x509.Certificate{URIs: []*url.URL{good, good}}, false},
		"two, one not a spiffe": {x509.Certificate{URIs: []*url.URL{good, uri("https://x")}}, false},
		"CA":                    {x509.Certificate{URIs: []*url.URL{good}, IsCA: true}, false},
		"signs certificates":    {x509.Certificate{URIs: []*url.URL{good}, KeyUsage: x509.KeyUsageCertSign}, false},
		"signs revocations":     {x509.Certificate{URIs: []*url.URL{good}, KeyUsage: x509.KeyUsageCRLSign}, false},
		"encoded":               {named(t, "spiffe://td/ns/%61/sa/b"), false},
		"as it stands":          {named(t, "spiffe://td/ns/a/sa/b"), true},
		// net/url reads these as the same as the one above.
		"upper-case scheme": {named(t, "SPIFFE://td/ns/a/sa/b"), false},
		"empty fragment":    {named(t, "spiffe://td/ns/a/sa/b#"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := CertificateID(parsed(t, tc.leaf)); (err == nil) != tc.wantOK {
				t.Errorf("error %v, want ok %v", err, tc.wantOK)
			}
		})
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/cart")
	f.Add("spiffe://td/ns/a/sa/b\x00")
	f.Add("spiffe://td/ns/*/sa/%62?x#y")
	f.Fuzz(func(t *testing.T, id string) {
		peer, err := ParseID(id)
		if err != nil {
			return
		}
		if peer.String() != id {
			t.Errorf("%q was read as %q", id, peer)
		}
		if strings.ContainsAny(id, "\x00*%?#@ ") {
			t.Errorf("%q was accepted", id)
		}
	})
}

func FuzzCertificateID(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	for _, id := range []string{"spiffe://td/ns/a/sa/b", "SPIFFE://td/ns/a/sa/b#"} {
		value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: uriName, Bytes: []byte(id)}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	// The names alone are what the fuzzer changes: a whole certificate would hardly ever be read again.
	f.Fuzz(func(t *testing.T, names []byte) {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: names}}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id, err := CertificateID(leaf)
		if err != nil {
			return
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id.String() {
			t.Errorf("%v was read as %s", leaf.URIs, id)
		}
	})
}
