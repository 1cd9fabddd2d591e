package capture

import (
	"cmp"
	"net/netip"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// plainLimit is how many callers of one pod are told apart. Later ones are counted together, by port.
const plainLimit = 256

// caller names a wire.PlainCaller of one pod; its source is invalid for all that are not told apart.
type caller struct {
	port   uint16
	source netip.Addr
}

// collect adds up what the kernel has counted of a pod's callers and reports those that have grown.
func (a *Agent) collect(p *pod) {
	callers, err := p.netns.Callers()
	if err != nil {
		a.Metrics.errors.WithLabelValues("callers").Inc()
		a.Log.Warn("callers of a pod cannot be counted", "namespace", p.sandbox.Namespace, "pod", p.sandbox.Name, "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := map[caller]bool{}
	for _, c := range callers {
		key := caller{c.Port, c.Source}
		if p.plain[key] == nil && len(p.plain) >= plainLimit {
			key.source = netip.Addr{}
		}
		total := p.plain[key]
		if total == nil {
			if p.plain == nil {
				p.plain = map[caller]*wire.PlainCaller{}
			}
			total = &wire.PlainCaller{UID: p.sandbox.UID, Port: key.port, Source: key.source}
			p.plain[key] = total
		}
		total.Connections += c.Connections
		total.Refused += c.Refused
		if c.Last.After(total.Last) {
			total.Last = c.Last
		}
		changed[key] = true
		a.Metrics.plain.WithLabelValues(p.sandbox.Namespace).Add(float64(c.Connections))
		a.Metrics.refused.WithLabelValues(p.sandbox.Namespace).Add(float64(c.Refused))
	}
	if len(changed) == 0 || !a.listed || a.pods[p.sandbox.ID] != p {
		return
	}
	var report wire.NodeReport
	for key := range changed {
		report.Plain = append(report.Plain, *p.plain[key])
	}
	slices.SortFunc(report.Plain, func(x, y wire.PlainCaller) int {
		return cmp.Or(cmp.Compare(x.Port, y.Port), x.Source.Compare(y.Source))
	})
	a.Report(report)
}
