// Command proxy is the proxy of the bench of the control plane: the configuration stream and the engine of weft-proxy,
// which answers a request through itself after every change of a route. It writes a line for each thing that is in
// force: its kind, its key, what it says, and when, in nanoseconds.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/source"
	"weft.dev/weft/proxy/wire"
)

func main() {
	files := flag.String("files", "", "directory with token and ca.crt")
	operator := flag.String("operator", "", "address of the configuration stream")
	namespace := flag.String("namespace", "", "namespace of the proxy")
	keys := flag.String("keys", "", "keys of the destinations that requests are sent to, separated by commas")
	flag.Parse()
	if err := run(*files, *operator, *namespace, strings.Split(*keys, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "control proxy:", err)
		os.Exit(1)
	}
}

func run(files, operator, namespace string, keys []string) error {
	e := engine.New(engine.Options{
		Namespace: namespace, Source: &wire.Workload{Namespace: namespace, ServiceAccount: "client"},
	})
	answers := make(map[string]string, len(keys))
	for _, key := range keys {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		answers[key] = "http://" + l.Addr().String() + "/"
		go func() { _ = e.ServeCaptured(engine.Direct(l, key)) }() // it ends with the process
	}
	requests := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var mu sync.Mutex
	say := func(kind, key, value string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %s %s %d\n", kind, key, value, time.Now().UnixNano())
	}
	s := &source.Stream{
		Addresses: []string{"weft-config.weft-system.svc:15010"}, Build: "bench", Tidy: true,
		CAFile: filepath.Join(files, "ca.crt"), TokenFile: filepath.Join(files, "token"),
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, operator)
		},
		OnConnection: func(connected bool, _ error) {
			if connected {
				say("connection", "-", "-")
			}
		},
		Apply: func(d wire.Delta) []wire.Rejection {
			rejected := e.Apply(d)
			say("delta", strconv.Itoa(len(d.Upserted)), strconv.Itoa(len(d.Removed)))
			for i := range d.Upserted {
				switch r := &d.Upserted[i]; {
				case r.Endpoints != nil && len(r.Endpoints.Endpoints) > 0:
					say("Endpoints", r.Key, r.Endpoints.Endpoints[0].Address.Addr().String())
				case r.Route != nil && len(r.Route.Destinations) > 0 && answers[r.Route.Destinations[0]] != "":
					key := r.Route.Destinations[0]
					location, err := ask(requests, answers[key])
					if err != nil {
						location = "failed"
					}
					say("Route", key, location)
				}
			}
			return rejected
		},
	}
	return s.Run(context.Background())
}

// ask returns where a request is redirected to: the effect of the route.
func ask(c *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	response, err := c.Do(request)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	location, err := response.Location()
	if err != nil {
		return "none", nil
	}
	return location.Hostname(), nil
}
