package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// ControlPort is where a pod of the tests takes commands.
const ControlPort = 8079

// Controller takes commands over HTTP. Paths: POST /request sends a Request and returns its Answer; POST
// /loads starts a Load and returns its number; GET /loads/{n}?after=I returns its Progress; DELETE
// /loads/{n} stops it and returns the Progress?after=I.
type Controller struct {
	mu    sync.Mutex
	loads map[string]*Running
}

// Handler serves the commands.
func (c *Controller) Handler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /request", func(w http.ResponseWriter, r *http.Request) {
		var request Request
		if !Decode(w, r, &request) {
			return
		}
		client := NewClient()
		defer client.Close()
		Reply(w, client.Do(r.Context(), &request))
	})
	mux.HandleFunc("POST /loads", func(w http.ResponseWriter, r *http.Request) {
		var load Load
		if Decode(w, r, &load) {
			Reply(w, c.start(load))
		}
	})
	mux.HandleFunc("GET /loads/{n}", func(w http.ResponseWriter, r *http.Request) { c.progress(w, r, false) })
	mux.HandleFunc("DELETE /loads/{n}", func(w http.ResponseWriter, r *http.Request) { c.progress(w, r, true) })
	return mux
}

func (c *Controller) start(load Load) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loads == nil {
		c.loads = map[string]*Running{}
	}
	n := strconv.Itoa(len(c.loads))
	c.loads[n] = Start(load)
	return n
}

func (c *Controller) progress(w http.ResponseWriter, r *http.Request, stop bool) {
	c.mu.Lock()
	running := c.loads[r.PathValue("n")]
	c.mu.Unlock()
	after, err := strconv.Atoi(r.URL.Query().Get("after"))
	if running == nil || err != nil {
		http.Error(w, "no such load, or no index", http.StatusNotFound)
		return
	}
	if stop {
		running.Stop()
	}
	Reply(w, running.Progress(after))
}

// Decode reads a command's argument. If it returns false it has answered the command.
func Decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// Reply answers a command.
func Reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// A caller that has gone needs no reply.
	_ = json.NewEncoder(w).Encode(v)
}

// Remote commands a Controller.
type Remote struct {
	// Call sends a command, with the query parameter "after" if there is one, and returns the body of a
	// successful reply.
	Call func(ctx context.Context, verb, path, after string, body []byte) ([]byte, error)
}

// Request has a request sent and returns its answer.
func (r *Remote) Request(ctx context.Context, request *Request) (Answer, error) {
	var a Answer
	err := r.call(ctx, http.MethodPost, "request", "", request, &a)
	return a, err
}

// Behaviour is how a backend treats HTTP requests from now on. Its zero value is to answer them.
type Behaviour struct {
	// Delay is waited before each answer.
	Delay time.Duration `json:"delay,omitempty"`
	// Status is answered instead of 200.
	Status int `json:"status,omitempty"`
	// Refuse closes the port: connections are refused.
	Refuse bool `json:"refuse,omitempty"`
	// Die ends the process as a crash would.
	Die bool `json:"die,omitempty"`
}

// Behave changes how a backend behaves and returns how many HTTP requests it has had so far.
func (r *Remote) Behave(ctx context.Context, b Behaviour) (int, error) {
	var requests int
	err := r.call(ctx, http.MethodPost, "behaviour", "", b, &requests)
	return requests, err
}

// RemoteLoad is a load that runs elsewhere.
type RemoteLoad struct {
	remote *Remote
	path   string
	// samples are those that have been fetched.
	samples []Sample
}

// Start begins a load.
func (r *Remote) Start(ctx context.Context, load *Load) (*RemoteLoad, error) {
	var n string
	if err := r.call(ctx, http.MethodPost, "loads", "", load, &n); err != nil {
		return nil, err
	}
	return &RemoteLoad{remote: r, path: "loads/" + n}, nil
}

// Progress returns all that is known so far.
func (l *RemoteLoad) Progress(ctx context.Context) (Progress, error) {
	return l.fetch(ctx, http.MethodGet)
}

// Stop ends the load and returns all of it.
func (l *RemoteLoad) Stop(ctx context.Context) (Progress, error) {
	return l.fetch(ctx, http.MethodDelete)
}

func (l *RemoteLoad) fetch(ctx context.Context, verb string) (Progress, error) {
	var p Progress
	if err := l.remote.call(ctx, verb, l.path, strconv.Itoa(len(l.samples)), nil, &p); err != nil {
		return Progress{}, err
	}
	l.samples = append(l.samples, p.Samples...)
	p.Samples = l.samples
	return p, nil
}

func (r *Remote) call(ctx context.Context, verb, path, after string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("command: %w", err)
		}
	}
	data, err := r.Call(ctx, verb, path, after, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, path, err)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s %s: reply: %w", verb, path, err)
	}
	return nil
}
