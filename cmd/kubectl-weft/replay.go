package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/trial"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// record is a line of an access log: attributes of GEP-5253, and Weft's own.
type record struct {
	Method         string `json:"http.request.method"`
	MethodOriginal string `json:"http.request.method_original"`
	Path           string `json:"url.path"`
	Query          string `json:"url.query"`
	Server         string `json:"server.address"`
	ServerPort     uint16 `json:"server.port"`
	Client         string `json:"client.address"`
	UserAgent      string `json:"user_agent.original"`
	RPC            string `json:"rpc.system.name"`
	Listener       string `json:"weft.listener"`
	Source         string `json:"weft.source.id"`
	Namespace      string `json:"weft.destination.namespace"`
	Service        string `json:"weft.destination.service"`
	Port           uint16 `json:"weft.destination.port"`
	RouteKind      string `json:"weft.route.kind"`
	RouteNamespace string `json:"weft.route.namespace"`
	Route          string `json:"weft.route.name"`
	Rule           string `json:"weft.rule"`
}

// Why a line of a log is left out.
const (
	leftOther   = "is no request"
	leftHop     = "the callee's proxy tells of a request that the caller's does as well"
	leftCaller  = "it does not say who called: name somebody with --from"
	leftUnknown = "no Service port of the mesh is called"
	leftHidden  = "what is not in a log, such as a header, has decided"
)

// replayed is what a log says about two configurations.
type replayed struct {
	// Requests are those that were tried; Same come out alike.
	Requests int `json:"requests"`
	Same     int `json:"same"`
	// Changes are sorted, the most frequent first. LeftOut counts lines by why they were not tried.
	Changes []replayedChange `json:"changes"`
	LeftOut map[string]int   `json:"leftOut"`
}

// replayedChange is what happens alike to many requests.
type replayedChange struct {
	Requests int `json:"requests"`
	// Example is one of them, From its caller.
	Example     string   `json:"example"`
	From        string   `json:"from"`
	Differences []string `json:"differences"`
}

// replayer tries recorded requests on two meshes.
type replayer struct {
	before, after *mesh.Mesh
	// tried are the trials on both.
	tried [2]*trial.Mesh
	from  *trial.Caller
	known map[record]verdict
	out   replayed
	by    map[string]*replayedChange
}

// verdict is what is found out about a record: why it is left out, or what would change for it.
type verdict struct {
	left        string
	differences []string
	example     string
	caller      string
}

// maxKnown bounds how many different records are remembered; others are tried again.
const maxKnown = 1 << 16

// maxLine bounds a line of a log.
const maxLine = 1 << 20

func newReplayer(before, after *mesh.Mesh, from *trial.Caller) *replayer {
	r := &replayer{before: before, after: after, from: from, known: map[record]verdict{}, by: map[string]*replayedChange{}}
	r.tried = [2]*trial.Mesh{trial.New(before.Compiled.Resources, before.Compiled.Enrolled), trial.New(after.Compiled.Resources, after.Compiled.Enrolled)}
	r.out = replayed{Changes: []replayedChange{}, LeftOut: map[string]int{}}
	return r
}

// replay reads a log, of which name is the name.
func (r *replayer) replay(name string, log io.Reader) (replayed, error) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxLine)
	var broken error
	n := 0
	for lines.Scan() {
		n++
		text := strings.TrimSpace(lines.Text())
		if text == "" {
			continue
		}
		var one record
		err := json.Unmarshal([]byte(text), &one)
		if err != nil && broken == nil {
			broken = &mesh.FileError{Position: mesh.Position{File: name, Line: n, Column: columnOf(err)}, Err: fmt.Errorf("is no line of an access log: %w", err)}
		}
		if err != nil || one.Method == "" || one.Path == "" {
			r.out.LeftOut[leftOther]++
			continue
		}
		r.add(one)
	}
	if err := lines.Err(); err != nil {
		return r.out, &mesh.FileError{Position: mesh.Position{File: name, Line: n + 1, Column: 1}, Err: err}
	}
	if r.out.LeftOut[leftOther] == n {
		// What proxies log beside requests may be in between, but then there are requests.
		if broken == nil {
			broken = wrong("%s holds no request: a line has at least http.request.method and url.path", name)
		}
		return r.out, broken
	}
	for _, c := range r.by {
		r.out.Changes = append(r.out.Changes, *c)
	}
	slices.SortFunc(r.out.Changes, func(x, y replayedChange) int {
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), cmp.Compare(x.Example, y.Example))
	})
	return r.out, nil
}

// columnOf is where JSON is wrong.
func columnOf(err error) int {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return int(max(syntax.Offset, 1))
	case errors.As(err, &kind):
		return int(max(kind.Offset, 1))
	}
	return 1
}

func (r *replayer) add(one record) {
	v, ok := r.known[one]
	if !ok {
		v = r.judge(one)
		if len(r.known) < maxKnown {
			r.known[one] = v
		}
	}
	if v.left != "" {
		r.out.LeftOut[v.left]++
		return
	}
	r.out.Requests++
	if len(v.differences) == 0 {
		r.out.Same++
		return
	}
	key := strings.Join(v.differences, "\n")
	c := r.by[key]
	if c == nil {
		c = &replayedChange{Example: v.example, From: v.caller, Differences: v.differences}
		r.by[key] = c
	}
	c.Requests++
}

// judge tries a record on both meshes.
func (r *replayer) judge(one record) verdict {
	if one.Listener == "hop" {
		return verdict{left: leftHop}
	}
	caller, ok := r.caller(&one)
	if !ok {
		return verdict{left: leftCaller}
	}
	request, err := requestOf(&one)
	if err != nil {
		return verdict{left: leftOther}
	}
	servicePort := r.servicePort(&one, caller.Namespace)
	if servicePort == "" {
		return verdict{left: leftUnknown}
	}
	before, after := r.tried[0].Try(caller, servicePort, &request), r.tried[1].Try(caller, servicePort, &request)
	// Where a proxy tells, it tells of the rule, or that there was none.
	recorded := "none"
	if one.Rule != "" {
		recorded = one.RouteKind + "/" + one.RouteNamespace + "/" + one.Route + "/" + one.Rule
	}
	if (one.Listener != "" || one.Rule != "") && before.Rule.String() != recorded {
		return verdict{left: leftHidden}
	}
	return verdict{differences: trial.Differences(before, after), example: requestLine(trial.Describe(&request)), caller: caller.String()}
}

// caller is who has sent a request.
func (r *replayer) caller(one *record) (trial.Caller, bool) {
	// spiffe://trust-domain/ns/namespace/sa/account
	parts := strings.Split(strings.TrimPrefix(one.Source, "spiffe://"), "/")
	var c trial.Caller
	switch {
	case len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa":
		c = trial.Caller{Namespace: parts[2], ServiceAccount: parts[4]}
	case r.from != nil:
		c = *r.from
	default:
		return c, false
	}
	if address, err := netip.ParseAddr(one.Client); err == nil {
		c.Address = address
	}
	return c, true
}

// requestOf makes a request of a record. What a log does not have of it is not there.
func requestOf(one *record) (phttp.Request, error) {
	request := phttp.Request{Method: cmp.Or(one.MethodOriginal, one.Method), Scheme: "http", Authority: one.Server}
	if one.ServerPort != 0 {
		request.Authority += ":" + strconv.Itoa(int(one.ServerPort))
	}
	if one.UserAgent != "" {
		request.Header.Add("user-agent", one.UserAgent)
	}
	if one.RPC == "grpc" {
		request.Header.Add("content-type", "application/grpc")
	}
	target := one.Path
	if one.Query != "" {
		target += "?" + one.Query
	}
	return request, request.SetTarget(target)
}

// servicePort is the one that was called: the log says so, or the host that the client has written. It must exist in
// one of the meshes at least.
func (r *replayer) servicePort(one *record, namespace string) string {
	port := cmp.Or(one.ServerPort, 80)
	for _, m := range []*mesh.Mesh{r.before, r.after} {
		if one.Service != "" {
			if svc, err := findService(m, one.Service+"."+one.Namespace, namespace); err == nil && hasPort(svc, int32(one.Port)) {
				return wire.ServicePortKey(svc.Namespace, svc.Name, one.Port)
			}
			continue
		}
		if svc, err := findService(m, one.Server, namespace); err == nil && hasPort(svc, int32(port)) {
			return wire.ServicePortKey(svc.Namespace, svc.Name, port)
		}
	}
	return ""
}

// replayFile replays a file, or standard input for "-".
func (a *app) replayFile(r *replayer, name string) (replayed, error) {
	if name == "-" {
		return r.replay("stdin", a.in)
	}
	file, err := os.Open(name)
	if err != nil {
		return replayed{}, err
	}
	defer func() { _ = file.Close() }()
	return r.replay(name, file)
}
