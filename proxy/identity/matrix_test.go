package identity_test

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/wire"
)

// chain is what one side presents: a root, which the other may trust, an intermediate and a leaf. Each of them
// can be bent before it is signed.
type chain struct {
	root, intermediate, leaf          x509.Certificate
	rootKey, intermediateKey, leafKey crypto.Signer
	// uris are the names in the leaf as they are written.
	uris []string
	// extra is another intermediate between the two.
	extra *x509.Certificate
	// alone leaves the intermediates out of what is presented.
	alone bool
	// foreign leaves the root out of what the other side trusts.
	foreign bool
	// selfSigned lets the leaf vouch for itself.
	selfSigned bool
	// presentedKey, if set, takes the place of the leaf's key.
	presentedKey crypto.Signer
	// edit, if set, changes how the peer connects.
	edit func(peer *tls.Config)
}

func authority(name string) x509.Certificate {
	return x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

// newChain returns what is good for the side it is for: a proxy that serves, or a workload that calls.
func newChain(t *testing.T, id string, usages ...x509.ExtKeyUsage) *chain {
	t.Helper()
	return &chain{
		root: authority("root"), intermediate: authority("intermediate"),
		leaf: x509.Certificate{
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages,
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
		},
		rootKey: curve(t, elliptic.P256()), intermediateKey: curve(t, elliptic.P256()), leafKey: curve(t, elliptic.P256()),
		uris: []string{id},
	}
}

func curve(t *testing.T, c elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue signs template, or lets it vouch for itself where there is no parent.
func issue(t *testing.T, template, parent *x509.Certificate, key, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// sign returns what is presented, and the root.
func (c *chain) sign(t *testing.T) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	root := issue(t, &c.root, nil, c.rootKey, nil)
	above, aboveKey := root, c.rootKey
	var between [][]byte
	if c.extra != nil {
		key := curve(t, elliptic.P256())
		above, aboveKey = issue(t, c.extra, root, key, c.rootKey), key
		between = append(between, above.Raw)
	}
	intermediate := issue(t, &c.intermediate, above, c.intermediateKey, aboveKey)
	between = append([][]byte{intermediate.Raw}, between...)
	if c.uris != nil {
		c.leaf.ExtraExtensions = append(c.leaf.ExtraExtensions, names(t, c.uris...))
	}
	var leaf *x509.Certificate
	if c.selfSigned {
		leaf = issue(t, &c.leaf, nil, c.leafKey, nil)
	} else {
		leaf = issue(t, &c.leaf, intermediate, c.leafKey, c.intermediateKey)
	}
	presented := [][]byte{leaf.Raw}
	if !c.alone {
		presented = append(presented, between...)
	}
	return tls.Certificate{Certificate: presented, PrivateKey: cmp.Or(c.presentedKey, c.leafKey)}, root
}

// names returns the extension with URI names as they are written.
func names(t *testing.T, uris ...string) pkix.Extension {
	t.Helper()
	var all []asn1.RawValue
	for _, uri := range uris {
		all = append(all, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

// badChains are ways in which what a peer presents can be wrong, with the reason why it is refused. In an id,
// %s is the path of who the peer should be.
var badChains = []struct {
	name string
	bend func(t *testing.T, c *chain)
	// uris, if set, are the names of the leaf in place of the right one.
	uris []string
	// side, if set, is the only one that can be wrong like this.
	side string
	want string
}{
	{name: "root that nobody trusts", bend: func(_ *testing.T, c *chain) { c.foreign = true }, want: "unknown authority"},
	{name: "another root with the same name", bend: func(t *testing.T, c *chain) { c.foreign, c.root.Subject.CommonName = true, "trusted" }, want: "unknown authority"},
	{name: "self-signed", bend: func(_ *testing.T, c *chain) { c.selfSigned, c.alone = true, true }, want: "unknown authority"},
	{name: "intermediate left out", bend: func(_ *testing.T, c *chain) { c.alone = true }, want: "unknown authority"},
	{name: "intermediate without the CA bit", bend: func(_ *testing.T, c *chain) { c.intermediate.IsCA = false }, want: "cannot sign this kind of certificate"},
	{name: "intermediate without basic constraints", bend: func(_ *testing.T, c *chain) {
		c.intermediate.IsCA, c.intermediate.BasicConstraintsValid = false, false
	}, want: "cannot sign this kind of certificate"},
	{name: "intermediate that may not sign certificates", bend: func(_ *testing.T, c *chain) { c.intermediate.KeyUsage = x509.KeyUsageDigitalSignature }, want: "unknown authority"},
	{name: "intermediate expired", bend: func(_ *testing.T, c *chain) { c.intermediate.NotAfter = time.Now().Add(-time.Second) }, want: "expired"},
	{name: "intermediate not yet valid", bend: func(_ *testing.T, c *chain) { c.intermediate.NotBefore = time.Now().Add(time.Minute) }, want: "not yet valid"},
	{name: "intermediate for other usages", bend: func(_ *testing.T, c *chain) {
		c.intermediate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}, want: "incompatible key usage"},
	{name: "root expired", bend: func(_ *testing.T, c *chain) { c.root.NotAfter = time.Now().Add(-time.Second) }, want: "expired"},
	{name: "path longer than the root allows", bend: func(_ *testing.T, c *chain) {
		extra := authority("extra")
		c.extra, c.root.MaxPathLen = &extra, 1
	}, want: "too many intermediates"},
	{name: "path longer than an intermediate allows", bend: func(_ *testing.T, c *chain) {
		extra := authority("extra")
		extra.MaxPathLenZero = true
		c.extra = &extra
	}, want: "too many intermediates"},
	{name: "name that the intermediate does not permit", bend: func(_ *testing.T, c *chain) { c.intermediate.PermittedURIDomains = []string{"other.example"} }, want: "not permitted by any constraint"},
	{name: "name that the root excludes", bend: func(_ *testing.T, c *chain) { c.root.ExcludedURIDomains = []string{"cluster.local"} }, want: "excluded by constraint"},
	{name: "leaf expired", bend: func(_ *testing.T, c *chain) { c.leaf.NotAfter = time.Now().Add(-time.Second) }, want: "expired"},
	{name: "leaf not yet valid", bend: func(_ *testing.T, c *chain) { c.leaf.NotBefore = time.Now().Add(30 * time.Second) }, want: "not yet valid"},
	{name: "leaf for other usages", bend: func(_ *testing.T, c *chain) {
		c.leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}, want: "incompatible key usage"},
	{name: "leaf for the other side", bend: func(_ *testing.T, c *chain) {
		other := map[x509.ExtKeyUsage]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth: x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageServerAuth: x509.ExtKeyUsageClientAuth}
		c.leaf.ExtKeyUsage = []x509.ExtKeyUsage{other[c.leaf.ExtKeyUsage[0]]}
	}, want: "incompatible key usage"},
	{name: "leaf with a critical extension that nobody knows", bend: func(_ *testing.T, c *chain) {
		c.leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	}, want: "unhandled critical extension"},
	{name: "CA as leaf", bend: func(_ *testing.T, c *chain) { c.leaf.IsCA = true }, want: "may sign others"},
	{name: "leaf that may sign certificates", bend: func(_ *testing.T, c *chain) { c.leaf.KeyUsage |= x509.KeyUsageCertSign }, want: "may sign others"},
	{name: "leaf that may sign revocations", bend: func(_ *testing.T, c *chain) { c.leaf.KeyUsage |= x509.KeyUsageCRLSign }, want: "may sign others"},
	{name: "RSA leaf of 1024 bits", bend: func(t *testing.T, c *chain) { c.leafKey = rsaKey(t, 1024) }, want: "too weak"},
	{name: "RSA intermediate of 1024 bits", bend: func(t *testing.T, c *chain) { c.intermediateKey = rsaKey(t, 1024) }, want: "too weak"},
	{name: "intermediate on P-224", bend: func(t *testing.T, c *chain) { c.intermediateKey = curve(t, elliptic.P224()) }, want: "too weak"},
	{name: "leaf signed with SHA-1", bend: func(_ *testing.T, c *chain) { c.leaf.SignatureAlgorithm = x509.ECDSAWithSHA1 }, want: "insecure algorithm"},
	{name: "key of another certificate", bend: func(t *testing.T, c *chain) { c.presentedKey = curve(t, elliptic.P256()) }, want: "invalid signature"},
	{name: "TLS 1.2", bend: func(_ *testing.T, c *chain) { c.edit = func(peer *tls.Config) { peer.MaxVersion = tls.VersionTLS12 } }, want: "version"},
	{name: "no protocol of the hop", bend: func(_ *testing.T, c *chain) {
		c.edit = func(peer *tls.Config) { peer.NextProtos = []string{"spdy/3"} }
	}, want: "application protocol"},
	{name: "no protocol", side: "client", bend: func(_ *testing.T, c *chain) {
		c.edit = func(peer *tls.Config) { peer.NextProtos = []string{} }
	}, want: "no protocol"},
	{name: "HTTP/1.1", side: "client", bend: func(_ *testing.T, c *chain) {
		c.edit = func(peer *tls.Config) { peer.NextProtos = []string{"http/1.1"} }
	}, want: "no protocol"},
	{name: "no certificate", side: "client", bend: func(_ *testing.T, c *chain) {
		c.edit = func(peer *tls.Config) { peer.GetClientCertificate = nil }
	}, want: "didn't provide a certificate"},
	{name: "proxy of another namespace", side: "server", uris: []string{"spiffe://cluster.local/ns/mint/sa/weft-proxy"}, want: "not spiffe://cluster.local/ns/bank/sa/weft-proxy"},

	{name: "other trust domain", uris: []string{"spiffe://other.example%s"}, want: "not of trust domain"},
	{name: "subdomain of the trust domain", uris: []string{"spiffe://a.cluster.local%s"}, want: "not of trust domain"},
	{name: "no name", uris: []string{}, want: "0 URI names"},
	{name: "DNS name alone", uris: []string{}, bend: func(_ *testing.T, c *chain) { c.leaf.DNSNames = []string{"bank.svc"}; c.uris = nil }, want: "0 URI names"},
	{name: "common name alone", uris: []string{}, bend: func(_ *testing.T, c *chain) {
		c.leaf.Subject.CommonName, c.uris = "spiffe://cluster.local/ns/bank/sa/weft-proxy", nil
	}, want: "0 URI names"},
	{name: "two names", uris: []string{"spiffe://cluster.local%s", "spiffe://cluster.local/ns/mint/sa/x"}, want: "2 URI names"},
	{name: "the name twice", uris: []string{"spiffe://cluster.local%s", "spiffe://cluster.local%s"}, want: "2 URI names"},
	{name: "a web address beside the name", uris: []string{"spiffe://cluster.local%s", "https://bank.example"}, want: "2 URI names"},
	{name: "web address", uris: []string{"https://cluster.local%s"}, want: "no spiffe URI"},
	{name: "upper-case scheme", uris: []string{"SPIFFE://cluster.local%s"}, want: "no spiffe URI"},
	{name: "upper-case trust domain", uris: []string{"spiffe://Cluster.Local%s"}, want: "invalid SPIFFE ID"},
	{name: "upper-case path", uris: []string{"spiffe://cluster.local/NS/bank/SA/weft-proxy"}, want: "invalid SPIFFE ID"},
	{name: "port", uris: []string{"spiffe://cluster.local:443%s"}, want: "trust domain of"},
	{name: "user", uris: []string{"spiffe://root@cluster.local%s"}, want: "trust domain of"},
	{name: "query", uris: []string{"spiffe://cluster.local%s?admin"}, want: "service account of"},
	{name: "fragment", uris: []string{"spiffe://cluster.local%s#x"}, want: "service account of"},
	{name: "empty fragment", uris: []string{"spiffe://cluster.local%s#"}, want: "service account of"},
	{name: "empty segment", uris: []string{"spiffe://cluster.local/ns//sa/weft-proxy"}, want: "namespace of"},
	{name: "doubled slash", uris: []string{"spiffe://cluster.local/%s"}, want: "the path of"},
	{name: "trailing slash", uris: []string{"spiffe://cluster.local%s/"}, want: "the path of"},
	{name: "longer path", uris: []string{"spiffe://cluster.local%s/x"}, want: "the path of"},
	{name: "no path", uris: []string{"spiffe://cluster.local"}, want: "the path of"},
	{name: "dot segments", uris: []string{"spiffe://cluster.local/ns/../sa/weft-proxy"}, want: "namespace of"},
	{name: "percent escape", uris: []string{"spiffe://cluster.local/ns/b%61nk/sa/weft-proxy"}, want: "namespace of"},
	{name: "escaped slash", uris: []string{"spiffe://cluster.local/ns/bank%2Fsa/sa/weft-proxy"}, want: "namespace of"},
	{name: "wildcard", uris: []string{"spiffe://cluster.local/ns/*/sa/weft-proxy"}, want: "namespace of"},
	{name: "too long", uris: []string{"spiffe://cluster.local/ns/bank/sa/" + strings.Repeat("a", 2048)}, want: "bytes long"},
	{name: "account too long", uris: []string{"spiffe://cluster.local/ns/bank/sa/" + strings.Repeat("a", 254)}, want: "service account of"},
}

// What is wrong with a certificate is refused by whoever it is presented to, with the reason, and for both
// sides the one that is right is let in, so that nothing else is what is refused.
func TestBadCertificatesAreRefusedOnBothSides(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			cases := 0
			for _, tc := range badChains {
				if tc.side != "" && tc.side != side {
					continue
				}
				cases++
				t.Run(tc.name, func(t *testing.T) {
					err := present(t, side, func(c *chain, path string) {
						if tc.uris != nil {
							c.uris = nil
							for _, uri := range tc.uris {
								c.uris = append(c.uris, strings.Replace(uri, "%s", path, 1))
							}
						}
						if tc.bend != nil {
							tc.bend(t, c)
						}
					})
					if err == nil || !strings.Contains(err.Error(), tc.want) {
						t.Errorf("error %v, want one with %q", err, tc.want)
					}
				})
			}
			if cases < 40 {
				t.Errorf("%d cases, want at least 40", cases)
			}
			if err := present(t, side, func(*chain, string) {}); err != nil {
				t.Errorf("what is right is refused: %v", err)
			}
		})
	}
}

// present lets one side present a chain to a proxy of this package, and returns why that refused it.
func present(t *testing.T, side string, bend func(c *chain, path string)) error {
	t.Helper()
	path, usage := "/ns/shop/sa/cart", x509.ExtKeyUsageClientAuth
	if side == "server" {
		path, usage = "/ns/bank/sa/weft-proxy", x509.ExtKeyUsageServerAuth
	}
	c := newChain(t, "spiffe://cluster.local"+path, usage)
	bend(c, path)
	presented, root := c.sign(t)
	peer := &tls.Config{
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &presented, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &presented, nil },
		ClientAuth:           tls.RequestClientCert, InsecureSkipVerify: true, NextProtos: []string{"h2"},
	}
	if c.edit != nil {
		c.edit(peer)
	}
	trusted := newChain(t, "spiffe://cluster.local/ns/bank/sa/weft-proxy", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	trusted.root.Subject.CommonName = "trusted"
	account, namespace := "weft-proxy", "bank"
	if side == "server" {
		trusted.uris, account, namespace = []string{"spiffe://cluster.local/ns/shop/sa/cart"}, "cart", "shop"
	}
	own, ownRoot := trusted.sign(t)
	mesh := &wire.Mesh{TrustDomain: "cluster.local", TrustBundle: encodePEM("CERTIFICATE", ownRoot.Raw)}
	if !c.foreign {
		mesh.TrustBundle += encodePEM("CERTIFICATE", root.Raw)
	}
	store := identity.NewStore(identity.Options{Namespace: namespace})
	certificate := &wire.Certificate{
		Namespace: namespace, ServiceAccount: account, SPIFFEID: trusted.uris[0], Proxy: side == "client",
		Chain: encodePEM("CERTIFICATE", own.Certificate[0]) + encodePEM("CERTIFICATE", own.Certificate[1]), Key: encodeKey(t, own.PrivateKey),
	}
	if rejected := store.Update(mesh, keyed(certificate)); len(rejected) > 0 {
		t.Fatalf("rejected %v", rejected)
	}
	if side == "client" {
		_, clientErr, serverErr := handshake(t, peer, store.ServerConfig())
		if (clientErr == nil) != (serverErr == nil) {
			t.Errorf("the client got %v, the server %v", clientErr, serverErr)
		}
		return serverErr
	}
	_, clientErr, _ := handshake(t, clientConfig(t, store, "cart", "bank"), peer)
	return clientErr
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func encodeKey(t *testing.T, key crypto.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("PRIVATE KEY", der)
}
