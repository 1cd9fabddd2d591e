package compile

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// class is what a Service port declares about its protocol.
type class int

const (
	// classNone: nothing is declared; the routes on the port decide.
	classNone class = iota
	// classHTTP: HTTP of no particular version. HTTP/1.1 is spoken to endpoints unless a GRPCRoute of
	// the Service's own namespace says that the port speaks HTTP/2.
	classHTTP
	// classH2C: HTTP/2 with prior knowledge.
	classH2C
	// classOpaque: something other than HTTP in plain text. No route applies.
	classOpaque
)

// declaration is a port's class and the field it comes from, for messages.
type declaration struct {
	class class
	by    string
}

// appProtocols maps the values of appProtocol that speak HTTP in plain text: the Kubernetes standard
// ones (KEP-3726) and the usual bare names. Any other value declares something else.
var appProtocols = map[string]class{
	"kubernetes.io/h2c": classH2C,
	"kubernetes.io/ws":  classHTTP,
	"grpc":              classH2C,
	"grpc-web":          classHTTP,
	"h2c":               classH2C,
	"http":              classHTTP,
	"http2":             classH2C,
	"ws":                classHTTP,
}

// portNames is the naming convention of the field's other meshes: a port is named after its protocol,
// or its name begins with the protocol and a dash. Longer names come before their own prefixes.
var portNames = []struct {
	name  string
	class class
}{
	{"grpc-web", classHTTP},
	{"grpc", classH2C},
	{"h2c", classH2C},
	{"http2", classH2C},
	{"http", classHTTP},
	{"https", classOpaque},
	{"mongo", classOpaque},
	{"mysql", classOpaque},
	{"postgres", classOpaque},
	{"redis", classOpaque},
	{"tcp", classOpaque},
	{"tls", classOpaque},
	{"ws", classHTTP},
	{"wss", classOpaque},
}

// DeclaresProtocol tells whether a port says what it speaks.
func DeclaresProtocol(port *corev1.ServicePort) bool { return declared(port).class != classNone }

// declared reads a port's appProtocol or, where it has none, its name.
func declared(port *corev1.ServicePort) declaration {
	if p := port.AppProtocol; p != nil && *p != "" {
		by := "appProtocol " + strconv.Quote(*p)
		if class, ok := appProtocols[strings.ToLower(*p)]; ok {
			return declaration{class, by}
		}
		return declaration{classOpaque, by}
	}
	for _, known := range portNames {
		if rest, ok := strings.CutPrefix(port.Name, known.name); ok && (rest == "" || rest[0] == '-') {
			return declaration{known.class, "its name " + strconv.Quote(port.Name)}
		}
	}
	return declaration{class: classNone}
}
