//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// TestHop: a request to another namespace of the mesh takes the proxies of both sides, those of their namespaces or of the
// pods themselves. Both write a line about it, as the Service's policy asks for.
func TestHop(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	bed.Create(t, testbed.NewService(w.home, "hop", onlyV1))
	bed.Enforce(t, testbed.MeshPolicy(t, w.home, `
metadata: {name: hop}
spec:
  targetRefs: [{group: "", kind: Service, name: hop}]
  telemetry: {accessLog: {rules: [{}]}}
`))
	request := traffic.Request{URL: "http://hop." + w.home}
	captured(t, w.abroadClient, request)
	sending, receiving := bed.ProxiesOf(t, w.abroadClient), bed.ProxiesOf(t, w.v1)
	const requests = "http_server_request_duration_seconds"
	atSender := map[string]string{"weft_listener": "captured", "weft_destination_namespace": w.home, "weft_destination_service": "hop", "http_response_status_code": "200"}
	atReceiver := map[string]string{"weft_listener": "hop", "weft_destination_namespace": w.home, "weft_destination_service": "hop", "http_response_status_code": "200"}
	sent, received := bed.Metric(t, sending, requests, atSender), bed.Metric(t, receiving, requests, atReceiver)
	for range tries {
		a := w.abroadClient.Send(t, request)
		if wrong := from("v1")(&a); wrong != "" {
			t.Fatalf("%s: %s", wrong, show(&a))
		}
		ours := false
		for _, p := range receiving {
			ours = ours || p.Has(a.Echo.Peer)
		}
		if !ours {
			t.Errorf("the backend's peer is %s, want a proxy of its own or of its namespace", a.Echo.Peer)
		}
	}
	if n := bed.Metric(t, sending, requests, atSender) - sent; n != tries {
		t.Errorf("the proxies of the client have counted %d requests, want %d", n, tries)
	}
	if n := bed.Metric(t, receiving, requests, atReceiver) - received; n != tries {
		t.Errorf("the proxies of the Service's pods have counted %d requests over the hop, want %d", n, tries)
	}
	written(t, sending, `"weft.listener":"captured"`, `"weft.source.id":"spiffe://`, `"weft.destination.namespace":"`+w.home+`","weft.destination.service":"hop","weft.destination.port":80`)
	written(t, receiving, `"weft.listener":"hop"`, `"weft.source.id":"spiffe://`, `"weft.destination.namespace":"`+w.home+`","weft.destination.service":"hop","weft.destination.port":80`)
}

// written waits until one of some proxies has written a line with all of these parts.
func written(t *testing.T, proxies []*testbed.Pod, parts ...string) {
	t.Helper()
	testbed.Eventually(t, func(ctx context.Context) error {
		for _, p := range proxies {
			log, err := bed.ProxyLog(ctx, p)
			if err != nil {
				return err
			}
			for line := range strings.Lines(log) {
				if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
					return nil
				}
			}
		}
		return fmt.Errorf("no line has %q", parts)
	})
}

// TestHopRefuses: nobody gets anything from the port of the hop who is not a workload of the mesh, and
// nobody from the port of captured connections who does not belong to the namespace, or is not the pod itself.
func TestHopRefuses(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	service := testbed.NewService(w.home, "refuses", onlyV1)
	bed.Create(t, service)
	captured(t, w.client, traffic.Request{URL: "http://refuses"})
	account := "default"
	if !w.v1.Beside {
		account = "weft-proxy"
	}
	proxy := bed.ProxiesOf(t, w.v1)[0].Addresses[0]
	hop := netip.AddrPortFrom(proxy, wire.PortHop).String()

	for name, request := range map[string]traffic.Request{
		"HTTP/1.1": {URL: "http://" + hop},
		"HTTP/2":   {URL: "http://" + hop, Protocol: traffic.H2C},
		"TCP":      {URL: hop, Protocol: traffic.TCP, Body: "a line"},
	} {
		request.Timeout = 15 * time.Second
		if a := w.abroadClient.Send(t, request); a.Error == "" {
			t.Errorf("in plain %s: want no answer, have: %s", name, show(&a))
		}
	}

	secret := &corev1.Secret{}
	if err := bed.Client.Get(t.Context(), types.NamespacedName{Namespace: w.abroad, Name: "weft-identity-default"}, secret); err != nil {
		t.Fatal(err)
	}
	spiffe := "spiffe://cluster.local/ns/" + w.abroad + "/sa/default"
	other, otherKey := selfSigned(t, spiffe)
	tests := map[string]struct {
		certificate, key string
		want             bool
	}{
		"a workload of the mesh":           {string(secret.Data["tls.crt"]), string(secret.Data["tls.key"]), true},
		"nobody":                           {"", "", false},
		"its name, from another authority": {other, otherKey, false},
	}
	for name, tc := range tests {
		a := w.abroadClient.Send(t, traffic.Request{
			URL: hop, Protocol: traffic.TLS, Certificate: tc.certificate, Key: tc.key, ALPN: []string{"h2"}, Timeout: 3 * time.Second,
		})
		if accepted := a.Error == ""; accepted != tc.want {
			t.Errorf("as %s: accepted %v, want %v: %s", name, accepted, tc.want, show(&a))
		}
		if want := "spiffe://cluster.local/ns/" + w.home + "/sa/" + account; tc.want && a.Body != want {
			t.Errorf("the proxy is %q, want %q", a.Body, want)
		}
	}

	if w.v1.Beside {
		for _, client := range []*testbed.Pod{w.client, w.abroadClient} {
			a := client.Send(t, traffic.Request{URL: "http://" + netip.AddrPortFrom(proxy, wire.PortCaptured).String(), Timeout: 15 * time.Second})
			if a.Echo != nil || a.Error == "" && a.Status < 400 {
				t.Errorf("to the captured port beside another pod: want a refusal, have: %s", show(&a))
			}
		}
	}
	// The proxies of the namespace are there in any case, for the pods that have none of their own.
	number := bed.Number(t, service, testbed.PortHTTP)
	direct := traffic.Request{URL: "http://" + netip.AddrPortFrom(bed.Proxies(t, w.home)[0].Addresses[0], number).String()}
	a := w.client.Send(t, direct)
	if wrong := from("v1")(&a); wrong != "" {
		t.Errorf("to the captured port from its own namespace: %s: %s", wrong, show(&a))
	}
	a = w.abroadClient.Send(t, direct)
	if a.Echo != nil || a.Error == "" && a.Status < 400 {
		t.Errorf("to the captured port from another namespace: want a refusal, have: %s", show(&a))
	}
}

// selfSigned makes a certificate that claims an identity, and its key.
func selfSigned(t *testing.T, id string) (certificate, key string) {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, &x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// signed makes a certificate that signs itself, of what a template says of whom and what it is for, and its key.
func signed(t *testing.T, template *x509.Certificate) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(1), pkix.Name{Organization: []string{"somebody"}}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.KeyUsage, template.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// leaf parses the certificate in a Secret.
func leaf(secret *corev1.Secret) (*x509.Certificate, error) {
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil {
		return nil, fmt.Errorf("secret %s holds no certificate", secret.Name)
	}
	return x509.ParseCertificate(block.Bytes)
}

// TestIdentities: each ServiceAccount that runs pods has a certificate that names it, and Secrets of those
// that run none are taken away.
func TestIdentities(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = w.abroad, "identities"
	bed.Create(t, account)
	pods := bed.Run(t, w.abroad, testbed.App{Name: "identities", Version: "none", ServiceAccount: "identities"})
	bed.Create(t, testbed.NewService(w.home, "identities", onlyV1))
	// The hop is possible only with the certificate of this very account.
	expect(t, pods[0], traffic.Request{URL: "http://identities." + w.home}, from("v1"))
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = w.abroad, "weft-identity-identities"
	testbed.Await(t, bed, secret, func(s *corev1.Secret) string {
		c, err := leaf(s)
		if err != nil {
			return err.Error()
		}
		if want := "spiffe://cluster.local/ns/" + w.abroad + "/sa/identities"; len(c.URIs) != 1 || c.URIs[0].String() != want {
			return fmt.Sprintf("the certificate is for %v, want %s", c.URIs, want)
		}
		if !strings.HasPrefix(s.Name, "weft-identity-") || s.Type != corev1.SecretTypeTLS {
			return "it is of type " + string(s.Type)
		}
		return ""
	})
}
