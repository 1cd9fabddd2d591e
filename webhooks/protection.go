package webhooks

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// protectionWarnings tells which authorizations a route makes invalid, and what is let through that was not. What an
// authorization is for follows the routes that it targets, and those of Services that it targets, so that whoever
// edits one may change what is protected without having looked at it. Of a route that has not existed only the former
// is said.
func protectionWarnings(existed bool, without, with compile.Result) []string {
	var warnings []string
	before, after := protectionOf(&without), protectionOf(&with)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		was, is := before[name], after[name]
		switch {
		case was.faults != "", was.audit, is.audit:
		case is.faults != "":
			warnings = append(warnings, "MeshAuthorization "+name+" becomes invalid by this, and nothing is let through to its targets until one of them is corrected: "+is.faults)
		case existed:
			warnings = append(warnings, is.widened(name, was)...)
		}
	}
	return warnings
}

// protection is what an authorization comes to.
type protection struct {
	faults string
	audit  bool
	action wire.AuthorizationAction
	// subject are the requests that it is for, in words.
	subject map[string]bool
}

// protectionOf returns what authorizations come to, by name.
func protectionOf(result *compile.Result) map[string]protection {
	all := make(map[string]protection, len(result.Authorizations))
	for i := range result.Authorizations {
		var faults []string
		for _, f := range result.Authorizations[i].Faults {
			faults = append(faults, f.Field+": "+f.Why)
		}
		all[result.Authorizations[i].Name.String()] = protection{faults: strings.Join(faults, "; ")}
	}
	for i := range result.Resources {
		a := result.Resources[i].Authorization
		if a == nil {
			continue
		}
		p := all[a.Key()]
		p.audit, p.action, p.subject = a.Audit, a.Action, map[string]bool{}
		for j := range a.Targets {
			for _, text := range requestsOf(&a.Targets[j]) {
				p.subject[text] = true
			}
		}
		all[a.Key()] = p
	}
	return all
}

// widened tells what an authorization allows that it did not: requests that it is not for any more are not denied by
// it, and those that it has come to be for are allowed by its rules, if it allows anything.
func (p protection) widened(name string, was protection) []string {
	var out []string
	if gone := beyond(was.subject, p.subject); len(gone) > 0 {
		out = append(out, "MeshAuthorization "+name+" is by this no longer for "+some(gone)+
			": whoever it has denied them may send them, unless another policy is for them")
	}
	if come := beyond(p.subject, was.subject); len(come) > 0 && p.action == wire.AuthorizationAllow && len(was.subject) > 0 {
		out = append(out, "MeshAuthorization "+name+" is by this also for "+some(come)+": whoever it allows may send them as well")
	}
	return out
}

// beyond returns what one set has and another has not, sorted.
func beyond(of, other map[string]bool) []string {
	var out []string
	for _, text := range slices.Sorted(maps.Keys(of)) {
		if !other[text] {
			out = append(out, text)
		}
	}
	return out
}

// some names as many of several things as fit a warning.
func some(names []string) string {
	if len(names) > maxNamed {
		names = append(names[:maxNamed:maxNamed], fmt.Sprintf("%d more", len(names)-maxNamed))
	}
	return strings.Join(names, ", ")
}

// requestsOf says what a target is for.
func requestsOf(t *wire.AuthorizationTarget) []string {
	to := t.Service
	if t.Port != 0 {
		to = fmt.Sprintf("%s:%d", t.Service, t.Port)
	}
	if len(t.Requests) == 0 {
		return []string{"all requests to " + to}
	}
	var out []string
	for i := range t.Requests {
		o := &t.Requests[i]
		words := slices.Clone(o.Methods)
		for _, path := range o.Paths {
			words = append(words, strings.ToLower(string(path.Type))+" "+path.Value)
		}
		for _, m := range o.GRPC {
			words = append(words, "gRPC "+m.Service+"/"+m.Method)
		}
		for _, h := range o.Headers {
			words = append(words, "with "+h.Name+"="+h.Value)
		}
		out = append(out, "requests to "+to+" ("+strings.Join(words, " ")+")")
	}
	return out
}
