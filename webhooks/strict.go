package webhooks

import (
	"slices"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// maxNamed bounds what one warning names.
const maxNamed = 5

// refusedCallers warns of those who were seen lately to call past the mesh what is to become strict: they are
// going to be refused. of picks what becomes strict: a namespace and a Service port as "name:port".
func refusedCallers(field string, mesh *meshv1alpha1.Mesh, of func(namespace, service string) bool) []string {
	if mesh == nil {
		return nil
	}
	var named []string
	for _, in := range mesh.Status.PlainCallers {
		for i := range in.Top {
			c := &in.Top[i]
			if !of(in.Namespace, c.Service) {
				continue
			}
			text := c.Caller + " to " + in.Namespace + "/" + c.Service
			if c.ServiceAccount != "" {
				text = "pod " + c.Caller + " (ServiceAccount " + c.ServiceAccount + ") to " + in.Namespace + "/" + c.Service
			}
			if !slices.Contains(named, text) {
				named = append(named, text)
			}
		}
	}
	if len(named) == 0 {
		return nil
	}
	return []string{field + " refuses callers that came past the mesh within the last hour: " + some(named) +
		"; enrol their namespaces or let them in by mtls.allowFrom (status.plainCallers of the Mesh has more about them)"}
}

// among picks the given ports.
func among(ports []compile.ServicePort) func(namespace, service string) bool {
	return func(namespace, service string) bool {
		return slices.ContainsFunc(ports, func(p compile.ServicePort) bool { return p.Namespace == namespace && p.String() == service })
	}
}

// madeStrict picks the ports that an object of a snapshot makes strict.
func madeStrict(s compile.Snapshot, origin string) func(namespace, service string) bool {
	var ports []compile.ServicePort
	for _, e := range compile.Compile(s).Exposures {
		if e.Strict && slices.Contains(e.By, origin) {
			ports = append(ports, e.ServicePort)
		}
	}
	return among(ports)
}
