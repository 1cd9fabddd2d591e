package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func certificate(version string) wire.Resource {
	r := wire.New("shop/web", wire.ScopeNamespace("shop"), wire.Origin{}, &wire.Certificate{Namespace: "shop", ServiceAccount: "web", Key: "private", Chain: version})
	r.Version = version
	return r
}

func route(name, version string) wire.Resource {
	r := wire.New(name, wire.ScopeMesh, wire.Origin{}, &wire.Route{Name: name})
	r.Version = version
	return r
}

// newInventory returns one whose proxy rejects what rejects tells.
func newInventory(rejects func(wire.Resource) bool) (*Inventory, func(wire.Delta) []wire.Rejection) {
	i := &Inventory{
		Build: "v1", Namespace: "shop", Pod: "p", Ready: func() bool { return true }, Connected: func() bool { return false },
	}
	return i, i.Watch(func(d wire.Delta) []wire.Rejection {
		var rejected []wire.Rejection
		for _, r := range d.Upserted {
			if rejects(r) {
				rejected = append(rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: "no"})
			}
		}
		return rejected
	})
}

func TestInventoryIsWhatIsInForce(t *testing.T) {
	i, apply := newInventory(func(r wire.Resource) bool { return r.Version == "bad" })
	apply(wire.Delta{Seq: 1, Upserted: []wire.Resource{route("b", "1"), route("a", "1"), certificate("1"), route("c", "bad")}})
	apply(wire.Delta{Seq: 2, Upserted: []wire.Resource{route("a", "bad"), route("b", "2")}, Removed: []wire.Ref{{Kind: wire.KindRoute, Key: "none"}}})
	got := i.State(true)
	var held []string
	for _, h := range got.Held {
		held = append(held, h.Key+"="+h.Version)
	}
	if diff := cmp.Diff([]string{"shop/web=1", "a=1", "b=2"}, held); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	var rejected []string
	for _, r := range got.Rejected {
		rejected = append(rejected, r.Key+"="+r.Version)
	}
	if diff := cmp.Diff([]string{"a=bad", "c=bad"}, rejected); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}
	if got.Seq != 2 || got.Build != "v1" || !got.Ready || got.Connected || got.Applied.IsZero() {
		t.Errorf("state = %+v", got)
	}
	apply(wire.Delta{Seq: 3, Upserted: []wire.Resource{route("a", "3")}, Removed: []wire.Ref{{Kind: wire.KindRoute, Key: "c"}}})
	if got := i.State(false); len(got.Rejected) != 0 || got.Resources != nil {
		t.Errorf("after a correction %v is rejected, resources %v", got.Rejected, got.Resources)
	}
}

func TestNoPrivateKeyIsShown(t *testing.T) {
	i, apply := newInventory(func(wire.Resource) bool { return false })
	original := certificate("1")
	apply(wire.Delta{Seq: 1, Upserted: []wire.Resource{original}})
	server := httptest.NewServer(Handler(i, NewExchanges()))
	defer server.Close()
	text := get(t, server, "/state?resources=true")
	if strings.Contains(text, "private") || !strings.Contains(text, `"serviceAccount":"web"`) {
		t.Errorf("state = %s", text)
	}
	if original.Certificate.Key != "private" {
		t.Error("the proxy's own certificate was changed")
	}
}

func get(t *testing.T, server *httptest.Server, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var out strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestFailuresOutliveWhatGoesWell(t *testing.T) {
	x := NewExchanges()
	x.Add(Exchange{ID: "failed", Time: start, Status: 503, Reason: "no_endpoints"})
	for i := range 2 * kept {
		x.Add(Exchange{ID: strconv.Itoa(i), Time: start.Add(time.Duration(i+1) * time.Second), Status: 200})
	}
	got := x.Recent()
	if len(got) != kept+1 || got[0].ID != "failed" || got[1].ID != strconv.Itoa(kept) || got[kept].ID != strconv.Itoa(2*kept-1) {
		t.Errorf("%d exchanges from %s, %s to %s", len(got), got[0].ID, got[1].ID, got[len(got)-1].ID)
	}
}

func TestTextsAreBounded(t *testing.T) {
	x := NewExchanges()
	x.Add(Exchange{Path: "/" + strings.Repeat("é", maxText), Status: 200})
	if got := x.Recent()[0].Path; len(got) > maxText || !strings.HasPrefix(got, "/é") {
		t.Errorf("path of %d bytes", len(got))
	}
}

func TestFollow(t *testing.T) {
	x := NewExchanges()
	i, _ := newInventory(nil)
	server := httptest.NewServer(Handler(i, x))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/exchanges?follow=true&destination=shop/web:80&path=/a&method=GET&status=500&rate=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if !x.Listening() {
		t.Fatal("nobody listens although there was an answer")
	}
	wanted := Exchange{Destination: "shop/web:80", Path: "/a/b", Method: "GET", Status: 503, Time: start}
	for _, change := range []func(*Exchange){
		func(e *Exchange) { e.Destination = "shop/other:80" }, func(e *Exchange) { e.Path = "/b" },
		func(e *Exchange) { e.Method = "PUT" }, func(e *Exchange) { e.Status = 200 },
	} {
		other := wanted
		change(&other)
		x.Add(other)
	}
	for range 4 {
		x.Add(wanted)
	}
	backend := wanted
	backend.Destination, backend.Backend, backend.Time = "shop/front:80", "shop/web:80", start.Add(time.Second)
	x.Add(backend)
	var dropped int64
	lines := bufio.NewScanner(res.Body)
	for n := range 3 {
		if !lines.Scan() {
			t.Fatalf("the stream ended: %v", lines.Err())
		}
		var l Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		dropped += l.Dropped
		if want := []string{wanted.Destination, wanted.Destination, backend.Destination}[n]; l.Destination != want {
			t.Errorf("line %d is about %s, want %s", n, l.Destination, want)
		}
	}
	if dropped != 2 {
		t.Errorf("%d were dropped, want 2", dropped)
	}
}

func TestListenersAreBounded(t *testing.T) {
	x := NewExchanges()
	var ends []func()
	for range maxListeners {
		_, end := x.listen(1, func(*Exchange) bool { return true })
		ends = append(ends, end)
	}
	if l, _ := x.listen(1, nil); l != nil {
		t.Error("one more may listen")
	}
	ends[0]()
	if l, _ := x.listen(1, func(*Exchange) bool { return true }); l == nil {
		t.Error("nobody may listen although one has gone")
	}
	// Nobody reads, and nobody waits for them.
	for range 3 * backlog {
		x.Add(Exchange{Status: 200})
	}
}

func TestRedact(t *testing.T) {
	got := Redact(map[string][]string{
		"Accept": {"a", "b"}, "Authorization": {"Bearer x"}, "Cookie": {"s=1"}, "X-Api-Key": {"k"}, "X-Csrf-Token": {"t"}, "X-Long": {strings.Repeat("x", 2*maxText)},
	})
	want := []string{
		"accept: a", "accept: b", "authorization: (redacted)", "cookie: (redacted)", "x-api-key: (redacted)", "x-csrf-token: (redacted)",
		"x-long: " + strings.Repeat("x", maxText),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestIDOf(t *testing.T) {
	for want, header := range map[string]http.Header{
		"r":                                {"X-Request-Id": {"r"}, "Traceparent": {"00-1-2-01"}},
		"4bf92f3577b34da6a3ce929d0e0e4736": {"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
		"":                                 {"Traceparent": {"broken"}},
	} {
		if got := IDOf(header.Get); got != want {
			t.Errorf("id of %v = %q, want %q", header, got, want)
		}
	}
}
