// Package admin owns what a proxy tells about itself to those who may reach its loopback address: the
// configuration that it has, and the requests that it has lately served. Only a port-forward of Kubernetes leads
// there, so that RBAC says who may. It changes nothing, and never shows a private key.
package admin

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft.dev/weft/proxy/held"
	"weft.dev/weft/proxy/wire"
)

// State is what a proxy has. Fields may be added: commands of one version understand proxies of another.
type State struct {
	Build     string `json:"build"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Ready     bool   `json:"ready"`
	// Connected tells that the operator's stream is up.
	Connected bool `json:"connected"`
	// Seq and Applied are those of the last change.
	Seq     uint64    `json:"seq"`
	Applied time.Time `json:"applied"`
	// Held are the versions in force, sorted; Rejected are resources of which a previous version, or none, is.
	Held     []wire.Held      `json:"held"`
	Rejected []wire.Rejection `json:"rejected,omitempty"`
	// Resources are those in force, without private keys. They are there if they were asked for.
	Resources []wire.Resource `json:"resources,omitempty"`
}

// Inventory remembers what is in force. Its methods may be called at any time.
type Inventory struct {
	// Build, Namespace and Pod say which proxy it is; Ready and Connected how it does. They are set before use.
	Build, Namespace, Pod string
	Ready, Connected      func() bool

	// Held is what is in force, kept by whoever gives it; without it, Watch does.
	Held *held.Set

	mu       sync.Mutex
	own      held.Set
	seq      uint64
	applied  time.Time
	rejected map[wire.Ref]wire.Rejection
}

// Watch returns apply, with what it puts in force remembered.
func (i *Inventory) Watch(apply func(wire.Delta) []wire.Rejection) func(wire.Delta) []wire.Rejection {
	return func(d wire.Delta) []wire.Rejection {
		rejected := apply(d)
		i.note(d, rejected)
		return rejected
	}
}

func (i *Inventory) note(d wire.Delta, rejected []wire.Rejection) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.Held == nil {
		i.own.Apply(d, rejected)
	}
	if i.rejected == nil {
		i.rejected = map[wire.Ref]wire.Rejection{}
	}
	for _, ref := range d.Removed {
		delete(i.rejected, ref)
	}
	for j := range d.Upserted {
		delete(i.rejected, d.Upserted[j].Ref)
	}
	for _, r := range rejected {
		i.rejected[r.Ref] = r
	}
	i.seq, i.applied = d.Seq, time.Now()
}

// State returns what is in force now.
func (i *Inventory) State(resources bool) State {
	s := State{Build: i.Build, Namespace: i.Namespace, Pod: i.Pod, Ready: i.Ready(), Connected: i.Connected()}
	i.mu.Lock()
	defer i.mu.Unlock()
	all := i.Held
	if all == nil {
		all = &i.own
	}
	s.Seq, s.Applied, s.Held = i.seq, i.applied, all.Versions()
	if resources {
		for _, h := range s.Held {
			if r, ok := all.Get(h.Ref); ok {
				s.Resources = append(s.Resources, withoutKey(r))
			}
		}
	}
	for _, r := range i.rejected {
		s.Rejected = append(s.Rejected, r)
	}
	slices.SortFunc(s.Rejected, func(a, b wire.Rejection) int { return compareRefs(a.Ref, b.Ref) })
	return s
}

func compareRefs(a, b wire.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
}

// withoutKey returns a resource without its private key.
func withoutKey(r wire.Resource) wire.Resource {
	if r.Certificate != nil {
		public := *r.Certificate
		public.Key = ""
		r.Certificate = &public
	}
	return r
}

// Handler serves GET /state, with the resources if the parameter resources is "true"; GET /exchanges, what was
// lately served; and GET /exchanges?follow=true, one JSON object per line as requests end. Of the latter the
// parameters destination, path (a prefix), method, status (from which on) and rate (a second) say what is wanted.
func Handler(i *Inventory, x *Exchanges) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) {
		write(w, i.State(r.FormValue("resources") == "true"))
	})
	mux.HandleFunc("GET /exchanges", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("follow") == "true" {
			follow(w, r, x)
			return
		}
		write(w, x.Recent())
	})
	return mux
}

// write sends a value. A client that has gone does not need it.
func write(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// Line is one line of a stream of exchanges: an exchange, or how many were dropped since the line before.
type Line struct {
	*Exchange
	Dropped int64 `json:"dropped,omitempty"`
}

// follow streams exchanges until the client goes.
func follow(w http.ResponseWriter, r *http.Request, x *Exchanges) {
	number := func(name string, fallback int) int {
		n, err := strconv.Atoi(r.FormValue(name))
		if err != nil {
			return fallback
		}
		return n
	}
	destination, path, method, status := r.FormValue("destination"), r.FormValue("path"), r.FormValue("method"), number("status", 0)
	l, end := x.listen(number("rate", 100), func(e *Exchange) bool {
		return (destination == "" || e.Destination == destination || e.Backend == destination) &&
			strings.HasPrefix(e.Path, path) && (method == "" || e.Method == method) && (e.Status >= status || e.Status == 0)
	})
	if l == nil {
		http.Error(w, "too many listen already", http.StatusTooManyRequests)
		return
	}
	defer end()
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder, controller := json.NewEncoder(w), http.NewResponseController(w)
	if controller.Flush() != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-l.got:
			if encoder.Encode(Line{Exchange: &e, Dropped: l.dropped.Swap(0)}) != nil || controller.Flush() != nil {
				return
			}
		}
	}
}
