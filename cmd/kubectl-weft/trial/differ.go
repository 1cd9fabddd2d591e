package trial

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Differences tells in what two outcomes of the same request differ, as "what: before -> after"; nothing if they do not.
func Differences(before, after Outcome) []string {
	var all []string
	differ := func(what, was, is string) {
		if was != is {
			all = append(all, what+": "+was+" -> "+is)
		}
	}
	differ("passes the mesh", passes(&before), passes(&after))
	if !before.Captured || !after.Captured {
		return all
	}
	differ("protocol", string(before.Protocol), string(after.Protocol))
	differ("rule", before.Rule.String(), after.Rule.String())
	differ("answered by the proxy", before.Answer.String(), after.Answer.String())
	differ("backends", sharesOf(before.Backends), sharesOf(after.Backends))
	differ("mirrored", mirrorsOf(before.Mirrors), mirrorsOf(after.Mirrors))
	if before.Answer == nil && after.Answer == nil {
		differ("policy", list(before.Policy), list(after.Policy))
	}
	for _, b := range after.Backends {
		i := slices.IndexFunc(before.Backends, func(was Backend) bool { return was.Key == b.Key })
		if i < 0 {
			continue
		}
		was := before.Backends[i]
		differ("allowed at "+b.Key, yes(was.Verdict.Allowed), yes(b.Verdict.Allowed))
		differ("answered for "+b.Key, was.Answer.String(), b.Answer.String())
		differ("target at "+b.Key, was.Request.Target, b.Request.Target)
		differ("host at "+b.Key, was.Request.Authority, b.Request.Authority)
		differ("headers at "+b.Key, list(was.Request.Header), list(b.Request.Header))
	}
	return all
}

func passes(o *Outcome) string {
	if o.Captured {
		return "yes"
	}
	return "no, " + o.Why
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func list(texts []string) string {
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, ", ")
}

// String returns "Kind/namespace/route/rule", "none" for nil.
func (r *Rule) String() string {
	if r == nil {
		return "none"
	}
	name := r.Name
	if name == "" {
		name = strconv.Itoa(r.Index)
	}
	return fmt.Sprintf("%s/%s/%s/%s", r.Kind, r.Namespace, r.Route, name)
}

// String returns status and reason, "none" for nil.
func (a *Answer) String() string {
	if a == nil {
		return "none"
	}
	return fmt.Sprintf("%d %s", a.Status, a.Reason)
}

// sharesOf writes backends with what they get, sorted.
func sharesOf(backends []Backend) string {
	sums := map[string]float64{}
	for _, b := range backends {
		key := b.Key
		if key == "" {
			key = "a backend that does not exist"
		}
		sums[key] += b.Percent
	}
	var texts []string
	for key, percent := range sums {
		texts = append(texts, PercentText(percent)+" "+key)
	}
	slices.Sort(texts)
	return list(texts)
}

func mirrorsOf(mirrors []Mirror) string {
	var texts []string
	for _, m := range mirrors {
		texts = append(texts, PercentText(m.Percent)+" "+m.Backend)
	}
	slices.Sort(texts)
	return list(texts)
}
