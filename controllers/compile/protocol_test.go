package compile

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestDeclared(t *testing.T) {
	app := func(protocol string) corev1.ServicePort { return corev1.ServicePort{Name: "x", AppProtocol: &protocol} }
	named := func(name string) corev1.ServicePort { return corev1.ServicePort{Name: name} }
	cases := map[class][]corev1.ServicePort{
		classHTTP: {
			app("http"), app("HTTP"), app("kubernetes.io/ws"), app("ws"), app("grpc-web"),
			named("http"), named("http-web"), named("http-2"), named("ws"), named("ws-chat"), named("grpc-web"), named("grpc-web-ui"),
		},
		classH2C: {
			app("kubernetes.io/h2c"), app("h2c"), app("http2"), app("grpc"),
			named("http2"), named("http2-web"), named("h2c"), named("grpc"), named("grpc-api"), named("grpc-webapp"),
		},
		classOpaque: {
			app("https"), app("kubernetes.io/wss"), app("tcp"), app("mysql"), app("example.com/own"),
			named("https"), named("https-web"), named("tls"), named("tcp"), named("tcp-http"), named("wss"),
			named("mongo"), named("mysql"), named("postgres"), named("redis-main"),
			{Name: "http", AppProtocol: new("tcp")},
		},
		classNone: {
			named(""), named("web"), named("httpish"), named("grpcs"), named("https2"), named("-http"), named("my-http"),
			{Name: "web", AppProtocol: new("")},
		},
	}
	for want, ports := range cases {
		for _, port := range ports {
			if got := declared(&port); got.class != want {
				t.Errorf("port %q with appProtocol %v declares %+v, want class %d", port.Name, port.AppProtocol, got, want)
			}
		}
	}
}
