package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/jwt"
)

// Limits of fetching a key set.
const (
	fetchTimeout  = 10 * time.Second
	maxSet        = 256 << 10
	maxHeader     = 16 << 10
	maxRedirects  = 3
	dialTimeout   = 5 * time.Second
	headerTimeout = 5 * time.Second
)

// errNotPublic does not say which address it is: who writes policies need not know the network of the operator.
var errNotPublic = errors.New("the host has no public address, and spec.jwks.hosts of the Mesh does not name it")

// Fetch reads the key set at a URL and returns it as jwt.Normalize does. hosts are those that the Mesh allows
// whatever their address is. The address that is connected to is what is judged, after names have been resolved,
// for each redirect anew. Neither credentials nor cookies are sent, and proxies of the environment are not used.
func Fetch(ctx context.Context, from string, hosts []meshv1alpha1.JWKSHost) (string, error) {
	g := guard{hosts}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return "", errors.New("not a URL")
	}
	if err := g.allows(req.URL); err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "weft-operator")
	transport := &http.Transport{
		DialContext: g.dial, DialTLSContext: g.dialTLS, DisableKeepAlives: true, DisableCompression: true,
		ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: maxHeader,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		req.Header.Del("Referer")
		return g.allows(req.URL)
	}}
	res, err := client.Do(req)
	if err != nil {
		return "", plain(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the answer is %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxSet+1))
	switch {
	case err != nil:
		return "", plain(err)
	case len(body) > maxSet:
		return "", fmt.Errorf("the answer is longer than %d bytes", maxSet)
	}
	return jwt.Normalize(body)
}

// plain returns the cause of a failure without the addresses that are in it.
func plain(err error) error {
	var unresolved *net.DNSError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var refused refusal
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, errNotPublic):
		return errNotPublic
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("there was no whole answer within %s", fetchTimeout)
	case errors.As(err, &unresolved):
		return errors.New("the host's name cannot be resolved")
	case errors.As(err, &unknown):
		return errors.New("the host's certificate leads to no authority that is trusted: spec.jwks.hosts of the Mesh may name one")
	case errors.As(err, &name), errors.As(err, &invalid):
		return errors.New("the host's certificate is not valid for it")
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("the connection was refused")
	}
	return errors.New("it could not be fetched")
}

// refusal is why a URL may not be fetched.
type refusal struct{ why string }

func (r refusal) Error() string { return r.why }

// guard decides what may be connected to.
type guard struct{ hosts []meshv1alpha1.JWKSHost }

// host returns what the Mesh says about a host, or nil.
func (g guard) host(name string) *meshv1alpha1.JWKSHost {
	name = strings.TrimSuffix(name, ".")
	at := slices.IndexFunc(g.hosts, func(h meshv1alpha1.JWKSHost) bool { return strings.EqualFold(h.Host, name) })
	if at < 0 {
		return nil
	}
	return &g.hosts[at]
}

// allows looks at a URL as far as it can be judged before names are resolved.
func (g guard) allows(u *url.URL) error {
	host := g.host(u.Hostname())
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && host != nil && host.PlainText != nil && *host.PlainText:
	default:
		return refusal{"it leads to a URL that is not https"}
	}
	if u.User != nil || u.Hostname() == "" {
		return refusal{"it leads to a URL with credentials or without a host"}
	}
	return nil
}

func (g guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	if g.host(name) == nil {
		// It is called with each address that is tried, just before it is.
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !public(to.Addr()) {
				return errNotPublic
			}
			return nil
		}
	}
	return dialer.DialContext(ctx, network, address)
}

func (g guard) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{ServerName: strings.TrimSuffix(name, "."), MinVersion: tls.VersionTLS12}
	if host := g.host(name); host != nil && host.CABundle != "" {
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM([]byte(host.CABundle)) {
			return nil, refusal{"caBundle of the host in spec.jwks.hosts of the Mesh holds no certificate"}
		}
	}
	conn, err := g.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// special are networks that are not the public Internet although netip does not say so of them (RFC 6890 and the
// registries of IANA), and those that hold addresses of IPv4 which may be anything.
var special = func() []netip.Prefix {
	var out []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}()

// public tells whether an address belongs to the public Internet. Addresses of metadata services are link-local or
// private ones.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}
