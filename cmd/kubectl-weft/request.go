package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// query is a request that somebody asks about.
type query struct {
	caller trial.Caller
	// servicePort is the one that the request is for, as wire.ServicePortKey writes it.
	servicePort string
	request     phttp.Request
}

// parseQuery reads a request such as "GET http://web.shop:8080/path". Names are resolved as for a pod of the
// caller's namespace. grpc:// stands for a POST of application/grpc.
func parseQuery(m *mesh.Mesh, caller trial.Caller, text string, headers []string) (query, error) {
	q := query{caller: caller, request: phttp.Request{Method: "GET", Scheme: "http"}}
	address := text
	if method, rest, ok := strings.Cut(text, " "); ok {
		if !phttp.IsToken(method) {
			return q, wrong("%q is no method: write a request as GET http://service.namespace/path", method)
		}
		q.request.Method, address = method, strings.TrimSpace(rest)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "grpc" {
		return q, wrong("%q is no request: write it as GET http://service.namespace/path or grpc://service.namespace:9000/package.Service/Method", text)
	}
	if u.Scheme == "grpc" {
		q.request.Method = "POST"
		q.request.Header.Add("content-type", "application/grpc")
	}
	q.request.Authority = u.Host
	target := u.EscapedPath()
	if u.RawQuery != "" || u.ForceQuery {
		target += "?" + u.RawQuery
	}
	if err := q.request.SetTarget(target); err != nil {
		return q, wrong("%q: %v", text, err)
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !phttp.IsToken(name) {
			return q, wrong("--header %q is not written as name: value", h)
		}
		if strings.EqualFold(name, "host") {
			q.request.Authority = value
			continue
		}
		q.request.Header.Add(name, value)
	}
	port := uint64(80)
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return q, wrong("%q: port %q is no number", text, u.Port())
		}
	}
	svc, err := findService(m, u.Hostname(), caller.Namespace)
	if err != nil {
		return q, err
	}
	if !hasPort(svc, int32(port)) {
		return q, absent("Service %s/%s has no port %d: it has %s", svc.Namespace, svc.Name, port, portList(svc))
	}
	q.servicePort = wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port))
	return q, nil
}

// findService resolves a name as DNS does for a pod of a namespace.
func findService(m *mesh.Mesh, host, namespace string) (*corev1.Service, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		for _, svc := range m.Snapshot.Services {
			if svc.Spec.ClusterIP == ip.String() || slices.Contains(svc.Spec.ClusterIPs, ip.String()) {
				return svc, nil
			}
		}
		return nil, absent("no Service has the cluster IP %s", host)
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(labels) > 1 {
		namespace = labels[1]
	}
	if len(labels) > 2 && labels[2] != "svc" {
		return nil, absent("%s is not the name of a Service", host)
	}
	svc := m.Service(types.NamespacedName{Namespace: namespace, Name: labels[0]})
	if svc == nil {
		return nil, absent("Service %s/%s does not exist", namespace, labels[0])
	}
	return svc, nil
}

func hasPort(svc *corev1.Service, port int32) bool {
	return slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
}

func portList(svc *corev1.Service) string {
	var ports []string
	for _, p := range svc.Spec.Ports {
		ports = append(ports, strconv.Itoa(int(p.Port)))
	}
	if len(ports) == 0 {
		return "none"
	}
	return strings.Join(ports, ", ")
}

// callerUsage explains parseCaller.
const callerUsage = "NAMESPACE/POD, NAMESPACE/sa/SERVICEACCOUNT, or NAMESPACE for its ServiceAccount default"

// parseCaller reads who sends a request.
func parseCaller(m *mesh.Mesh, text string) (trial.Caller, error) {
	parts := strings.Split(text, "/")
	switch {
	case slices.Contains(parts, ""):
	case len(parts) == 1:
		return trial.Caller{Namespace: parts[0], ServiceAccount: "default"}, nil
	case len(parts) == 3 && parts[1] == "sa":
		return trial.Caller{Namespace: parts[0], ServiceAccount: parts[2]}, nil
	case len(parts) == 2:
		pod := m.Pod(types.NamespacedName{Namespace: parts[0], Name: parts[1]})
		if pod == nil {
			return trial.Caller{}, absent("Pod %s does not exist: a caller is %s", text, callerUsage)
		}
		c := trial.Caller{Namespace: pod.Namespace, ServiceAccount: pod.Spec.ServiceAccountName, Pod: pod.Name}
		// A pod that has not started has no address, which rules on addresses take into account.
		if address, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
			c.Address = address
		}
		if pod.Spec.HostNetwork {
			return c, wrong("Pod %s is on its node's network, and nothing that it sends is captured", text)
		}
		return c, nil
	}
	return trial.Caller{}, wrong("%q is no caller: write it as %s", text, callerUsage)
}

// requestLine writes a request as people do.
func requestLine(r trial.Request) string {
	return fmt.Sprintf("%s http://%s%s", r.Method, r.Authority, r.Target)
}
