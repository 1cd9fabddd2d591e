package observability

// Dashboard is a page of Grafana.
type Dashboard struct {
	// UID is what it is linked by and the name of its file.
	UID, Title string
	Panels     []Panel
	// ByService asks for a namespace and a Service to look at.
	ByService bool
}

// Panel is one chart.
type Panel struct {
	Title string
	// Says is what the chart means, shown with its title.
	Says string
	// Unit is Grafana's name for it.
	Unit    string
	Queries []Query
}

// Query is one set of lines, or of numbers.
type Query struct {
	Expr string
	// Legend names a line by its labels.
	Legend string
}

// ofService selects what was asked for; rates is the window of rates.
const (
	ofService = `weft_destination_namespace=~"$namespace",weft_destination_service=~"$service"`
	rates     = "[$__rate_interval]"
)

const (
	unitRate, unitShare, unitSeconds = "reqps", "percentunit", "s"
	unitBytes, unitShort             = "bytes", "short"
	unitByteRate                     = "Bps"
)

const service = "{{weft_destination_namespace}}/{{weft_destination_service}}"

func rate(by, selector string) string {
	return "sum by (" + by + ") (rate({" + selector + "}" + rates + "))"
}

func latency(q, by, selector string) string {
	return "histogram_quantile(" + q + ", sum by (le" + comma(by) + ") (rate({" + selector + "}" + rates + ")))"
}

func comma(by string) string {
	if by == "" {
		return ""
	}
	return ", " + by
}

// Dashboards are all there are.
var Dashboards = []Dashboard{
	{UID: "weft-mesh", Title: "Weft / Mesh", Panels: []Panel{
		{Title: "Requests", Unit: unitRate, Says: "What clients have sent, by the called Service.", Queries: []Query{
			{Expr: "sum by (weft_destination_namespace, weft_destination_service) (weft:requests:rate5m)", Legend: service},
		}},
		{Title: "Success", Unit: unitShare, Says: "The share that was neither answered 5xx nor with an error of gRPC.", Queries: []Query{
			{Expr: "1 - (sum by (weft_destination_namespace, weft_destination_service) (weft:requests_failed:rate5m) or 0 * sum by (weft_destination_namespace, weft_destination_service) (weft:requests:rate5m)) / sum by (weft_destination_namespace, weft_destination_service) (weft:requests:rate5m)", Legend: service},
		}},
		{Title: "Latency, 99th percentile", Unit: unitSeconds, Says: "From the head of the request to the end of its answer.", Queries: []Query{
			{Expr: "weft:request_duration_seconds:p99_5m", Legend: service},
		}},
		{Title: "Who calls whom", Unit: unitRate, Says: "Requests by the ServiceAccount of the caller.", Queries: []Query{
			{Expr: "sum by (weft_source_namespace, weft_source_service_account, weft_destination_namespace, weft_destination_service) (weft:requests:rate5m)", Legend: "{{weft_source_namespace}}/{{weft_source_service_account}} → " + service},
		}},
		{Title: "Answers that proxies made", Unit: unitRate, Says: "By reason; docs/reasons.md says what each means.", Queries: []Query{
			{Expr: "sum by (weft_reason) (rate(weft_local_responses_total" + rates + "))", Legend: "{{weft_reason}}"},
		}},
		{Title: "Cut answers and refused connections", Unit: unitRate, Says: "What ended before it was complete, and what was not served, by reason.", Queries: []Query{
			{Expr: "sum by (weft_reason) (rate(weft_exchanges_cut_total" + rates + ")) or vector(0)", Legend: "cut: {{weft_reason}}"},
			{Expr: "sum by (weft_reason) (rate(weft_connections_refused_total" + rates + ")) or vector(0)", Legend: "refused: {{weft_reason}}"},
		}},
		{Title: "Bytes of TCP", Unit: unitByteRate, Says: "Of connections that have ended, upgraded ones among them.", Queries: []Query{
			{Expr: "sum by (weft_destination_namespace, weft_destination_service) (rate(weft_tcp_sent_bytes_total" + rates + "))", Legend: "to " + service},
			{Expr: "sum by (weft_destination_namespace, weft_destination_service) (rate(weft_tcp_received_bytes_total" + rates + "))", Legend: "from " + service},
		}},
		{Title: "Authorization", Unit: unitRate, Says: "Decisions by verdict and MeshAuthorization.", Queries: []Query{
			{Expr: "sum by (weft_authorization_verdict, weft_authorization_policy) (rate(weft_authorization_decisions_total" + rates + "))", Legend: "{{weft_authorization_verdict}} {{weft_authorization_policy}}"},
		}},
	}},
	{UID: "weft-service", Title: "Weft / Service", ByService: true, Panels: []Panel{
		{Title: "Requests by status", Unit: unitRate, Says: "As clients see it.", Queries: []Query{
			{Expr: rate("http_response_status_code, rpc_response_status_code", durations("server", "count")+","+clientsView+","+ofService), Legend: "{{http_response_status_code}}{{rpc_response_status_code}}"},
		}},
		{Title: "Errors by type", Unit: unitRate, Says: "A reason of Weft's if a proxy has answered, else the status.", Queries: []Query{
			{Expr: rate("error_type", durations("server", "count")+","+clientsView+`,error_type!="",`+ofService), Legend: "{{error_type}}"},
		}},
		{Title: "Latency", Unit: unitSeconds, Says: "As clients see it, from the head of the request to the end of its answer.", Queries: []Query{
			{Expr: latency("0.5", "", durations("server", "bucket")+","+clientsView+","+ofService), Legend: "p50"},
			{Expr: latency("0.95", "", durations("server", "bucket")+","+clientsView+","+ofService), Legend: "p95"},
			{Expr: latency("0.99", "", durations("server", "bucket")+","+clientsView+","+ofService), Legend: "p99"},
		}},
		{Title: "Callers", Unit: unitRate, Says: "Requests by ServiceAccount.", Queries: []Query{
			{Expr: rate("weft_source_namespace, weft_source_service_account", durations("server", "count")+","+clientsView+","+ofService), Legend: "{{weft_source_namespace}}/{{weft_source_service_account}}"},
		}},
		{Title: "Both ends of the hop", Unit: unitSeconds, Says: "99th percentile as the caller's proxy measures it (captured) and the Service's own (hop). The difference is the way.", Queries: []Query{
			{Expr: latency("0.99", "weft_listener", durations("server", "bucket")+","+ofService), Legend: "{{weft_listener}}"},
		}},
		{Title: "Tries by outcome", Unit: unitRate, Says: "What proxies have sent, each repetition apart, by backend.", Queries: []Query{
			{Expr: rate("weft_backend, weft_tls, error_type", durations("client", "count")+","+ofService), Legend: "{{weft_backend}} {{weft_tls}} {{error_type}}"},
		}},
		{Title: "Time to the head of the response", Unit: unitSeconds, Says: "99th percentile of one try, by backend.", Queries: []Query{
			{Expr: latency("0.99", "weft_backend", durations("client", "bucket")+","+ofService), Legend: "{{weft_backend}}"},
		}},
		{Title: "Retries", Unit: unitRate, Says: "By the reason that the try before was not enough.", Queries: []Query{
			{Expr: "sum by (weft_backend, weft_retry_reason) (rate(weft_upstream_retries_total{" + ofService + "}" + rates + "))", Legend: "{{weft_backend}} {{weft_retry_reason}}"},
		}},
		{Title: "Endpoints", Unit: unitShort, Says: "Instances by state, as the proxies that pick them judge: the least usable, and the most that are out.", Queries: []Query{
			{Expr: `min by (weft_backend) (weft_upstream_endpoints{state="usable",weft_backend=~"$namespace/$service:.*"})`, Legend: "{{weft_backend}} usable"},
			{Expr: `max by (weft_backend, state) (weft_upstream_endpoints{state!="usable",weft_backend=~"$namespace/$service:.*"})`, Legend: "{{weft_backend}} {{state}}"},
		}},
		{Title: "Ejections and circuit breaking", Unit: unitRate, Says: "Ejections by cause; what was refused because of a limit, and what waits.", Queries: []Query{
			{Expr: "sum by (weft_backend, cause) (rate(weft_upstream_ejections_total" + rates + "))", Legend: "{{weft_backend}} ejected: {{cause}}"},
			{Expr: "sum by (weft_backend, limit) (rate(weft_circuit_breaker_open_total" + rates + "))", Legend: "{{weft_backend}} full: {{limit}}"},
			{Expr: "sum by (weft_backend) (weft_circuit_breaker_pending)", Legend: "{{weft_backend}} waiting"},
		}},
	}},
	{UID: "weft-routes", Title: "Weft / Routes and releases", Panels: []Panel{
		{Title: "Share of each backend", Unit: unitShare, Says: "Of the requests of a rule, to hold against its weights.", Queries: []Query{
			{Expr: "weft:backend_requests:rate5m / on (weft_route_kind, weft_route_namespace, weft_route_name, weft_rule) group_left () sum by (weft_route_kind, weft_route_namespace, weft_route_name, weft_rule) (weft:backend_requests:rate5m)", Legend: "{{weft_route_namespace}}/{{weft_route_name}} {{weft_rule}}: {{weft_backend}}"},
		}},
		{Title: "Failures of each backend", Unit: unitShare, Says: "The share that failed, by rule and backend.", Queries: []Query{
			{Expr: "weft:backend_requests_failed:rate5m / weft:backend_requests:rate5m", Legend: "{{weft_route_namespace}}/{{weft_route_name}} {{weft_rule}}: {{weft_backend}}"},
		}},
		{Title: "Latency of each backend, 99th percentile", Unit: unitSeconds, Says: "From the head of the request to the end of its answer.", Queries: []Query{
			{Expr: "weft:backend_request_duration_seconds:p99_5m", Legend: "{{weft_route_namespace}}/{{weft_route_name}} {{weft_rule}}: {{weft_backend}}"},
		}},
		{Title: "Mirrored requests", Unit: unitRate, Says: "By outcome; dropped ones found no room.", Queries: []Query{
			{Expr: "sum by (outcome) (rate(weft_mirror_requests_total" + rates + "))", Legend: "{{outcome}}"},
		}},
		{Title: "Faults", Unit: unitRate, Says: "Injected by policies.", Queries: []Query{
			{Expr: "sum by (kind) (rate(weft_faults_injected_total" + rates + "))", Legend: "{{kind}}"},
		}},
	}},
	{UID: "weft-control-plane", Title: "Weft / Control plane and certificates", Panels: []Panel{
		{Title: "Clients of the operator", Unit: unitShort, Says: "Proxies and node agents with an open stream.", Queries: []Query{
			{Expr: "sum by (kind) (weft_config_clients)", Legend: "{{kind}}"},
		}},
		{Title: "Lag", Unit: unitSeconds, Says: "How long a client has owed an acknowledgement.", Queries: []Query{
			{Expr: "max by (kind, k8s_namespace_name, k8s_pod_name) (weft_config_client_lag_seconds)", Legend: "{{kind}} {{k8s_namespace_name}}/{{k8s_pod_name}}"},
		}},
		{Title: "Version of the configuration", Unit: unitShort, Says: "The operator's last publication, and what each proxy serves by.", Queries: []Query{
			{Expr: "max by (job, namespace, pod) (weft_config_sequence)", Legend: "{{namespace}}/{{pod}}"},
		}},
		{Title: "Time to an acknowledgement", Unit: unitSeconds, Says: "From sending a delta, 99th percentile.", Queries: []Query{
			{Expr: "histogram_quantile(0.99, sum by (le, kind) (rate(weft_config_ack_duration_seconds_bucket[5m])))", Legend: "{{kind}}"},
		}},
		{Title: "Time to apply a delta", Unit: unitSeconds, Says: "In a proxy, 99th percentile.", Queries: []Query{
			{Expr: "histogram_quantile(0.99, sum by (le) (rate(weft_config_apply_duration_seconds_bucket[5m])))", Legend: "proxies"},
		}},
		{Title: "Deltas", Unit: unitByteRate, Says: "What is sent to clients.", Queries: []Query{
			{Expr: "sum by (kind) (rate(weft_config_delta_bytes_total[5m]))", Legend: "{{kind}}"},
		}},
		{Title: "Rejected and refused", Unit: unitRate, Says: "Resources that clients cannot use, and streams that were refused.", Queries: []Query{
			{Expr: "sum by (resource) (rate(weft_config_rejected_total" + rates + ")) or vector(0)", Legend: "rejected {{resource}}"},
			{Expr: "sum by (code) (rate(weft_config_refused_total" + rates + ")) or vector(0)", Legend: "refused {{code}}"},
		}},
		{Title: "Certificates", Unit: unitSeconds, Says: "How long they are still valid; of workloads, the one that ends first.", Queries: []Query{
			{Expr: "min by (certificate) (weft_certificate_expiration_timestamp_seconds - time())", Legend: "{{certificate}}"},
		}},
		{Title: "Key sets of issuers of tokens", Unit: unitShort, Says: "Whether the last attempt to read each succeeded, the seconds since one did, and attempts a second by outcome.", Queries: []Query{
			{Expr: "min by (source) (weft_jwks_last_read_successful) or vector(1)", Legend: "{{source}} read"},
			{Expr: "time() - min by (source) (weft_jwks_last_success_timestamp_seconds) or vector(0)", Legend: "{{source}} age"},
			{Expr: "sum by (source, outcome) (rate(weft_jwks_reads_total" + rates + ")) or vector(0)", Legend: "{{source}} {{outcome}}"},
		}},
		{Title: "Callers past the mesh", Unit: unitRate, Says: "Connections to published ports that no proxy has seen, by what was done with them.", Queries: []Query{
			{Expr: "sum by (weft_destination_namespace, weft_destination_service, verdict) (rate(weft_plain_connections_total" + rates + ")) or vector(0)", Legend: service + " {{verdict}}"},
		}},
	}},
	{UID: "weft-data-plane", Title: "Weft / Proxies and nodes", Panels: []Panel{
		{Title: "CPU of proxies", Unit: unitShort, Says: "Cores.", Queries: []Query{
			{Expr: "sum by (namespace, pod) (rate(process_cpu_seconds_total" + rates + ") and on (job, instance) weft_ready)", Legend: "{{namespace}}/{{pod}}"},
		}},
		{Title: "Memory of proxies", Unit: unitBytes, Says: "Resident.", Queries: []Query{
			{Expr: "process_resident_memory_bytes and on (job, instance) weft_ready", Legend: "{{namespace}}/{{pod}}"},
		}},
		{Title: "Requests under way", Unit: unitShort, Says: "By proxy and listener.", Queries: []Query{
			{Expr: "sum by (namespace, pod, weft_listener) (http_server_active_requests)", Legend: "{{namespace}}/{{pod}} {{weft_listener}}"},
		}},
		{Title: "Open connections", Unit: unitShort, Says: "By listener and protocol.", Queries: []Query{
			{Expr: "sum by (weft_listener, protocol) (weft_connections_active)", Legend: "{{weft_listener}} {{protocol}}"},
			{Expr: "sum(weft_tcp_connections_active)", Legend: "of opaque bytes"},
		}},
		{Title: "New connections", Unit: unitRate, Says: "By listener and protocol, and those of opaque bytes that have ended.", Queries: []Query{
			{Expr: "sum by (weft_listener, protocol) (rate(weft_connections_total" + rates + "))", Legend: "{{weft_listener}} {{protocol}}"},
			{Expr: "sum by (error_type) (rate(weft_tcp_connections_total" + rates + "))", Legend: "ended {{error_type}}"},
		}},
		{Title: "State of proxies", Unit: unitShort, Says: "How many are ready, drain, and have a stream of configuration.", Queries: []Query{
			{Expr: "sum(weft_ready)", Legend: "ready"},
			{Expr: "sum(weft_draining)", Legend: "draining"},
			{Expr: "sum(weft_config_connected)", Legend: "connected"},
		}},
		{Title: "Time series", Unit: unitShort, Says: "Of each proxy, those that the limit has refused, and those that were forgotten because nothing used them.", Queries: []Query{
			{Expr: "sum by (namespace, pod) (weft_telemetry_series)", Legend: "{{namespace}}/{{pod}}"},
			{Expr: "sum(increase(weft_telemetry_series_dropped_total[1h]))", Legend: "dropped within an hour"},
			{Expr: "sum(increase(weft_telemetry_series_expired_total[1h]))", Legend: "expired within an hour"},
		}},
		{Title: "Spans and lines of the access log", Unit: unitRate, Says: "What has gone out, and what was dropped, by why.", Queries: []Query{
			{Expr: "sum(rate(weft_trace_spans_total" + rates + "))", Legend: "spans"},
			{Expr: "sum(rate(weft_access_log_lines_total" + rates + ")) or vector(0)", Legend: "lines"},
			{Expr: "sum by (reason) (rate(weft_trace_spans_dropped_total" + rates + "))", Legend: "spans dropped: {{reason}}"},
			{Expr: "sum by (reason) (rate(weft_access_log_lines_dropped_total" + rates + ")) or vector(0)", Legend: "lines dropped: {{reason}}"},
		}},
		{Title: "Fallbacks to cluster IPs", Unit: unitRate, Says: "Tries that went past endpoints, by reason.", Queries: []Query{
			{Expr: "sum by (reason) (rate(weft_fallbacks_total" + rates + ")) or vector(0)", Legend: "{{reason}}"},
		}},
		{Title: "Pods by capture", Unit: unitShort, Says: "As node agents see them.", Queries: []Query{
			{Expr: "sum by (state) (weft_node_pods)", Legend: "{{state}}"},
		}},
		{Title: "Proxies as nodes see them", Unit: unitShort, Says: "By their probes.", Queries: []Query{
			{Expr: "sum by (health) (weft_node_proxies)", Legend: "{{health}}"},
			{Expr: "sum(increase(weft_node_proxy_evictions_total[1h]))", Legend: "found dead within an hour"},
		}},
		{Title: "Facts that nodes prove", Unit: unitShort, Says: "1 where all nodes have proven it in their last run.", Queries: []Query{
			{Expr: "min by (fact) (weft_node_canary_proven)", Legend: "{{fact}}"},
			{Expr: "time() - max(weft_node_canary_last_run_timestamp_seconds)", Legend: "seconds since a run"},
		}},
		{Title: "Repairs and errors of node agents", Unit: unitRate, Says: "Rules that were damaged, and attempts that failed.", Queries: []Query{
			{Expr: "sum(rate(weft_node_repairs_total" + rates + "))", Legend: "repairs"},
			{Expr: "sum by (operation) (rate(weft_node_errors_total" + rates + ")) or vector(0)", Legend: "errors: {{operation}}"},
			{Expr: "sum(rate(weft_node_forgotten_connections_total" + rates + "))", Legend: "connections to dead proxies"},
		}},
		{Title: "Connections past the mesh, by nodes", Unit: unitRate, Says: "Let in, and refused by strict ports.", Queries: []Query{
			{Expr: "sum by (weft_destination_namespace) (rate(weft_node_plain_connections_total" + rates + ")) or vector(0)", Legend: "{{weft_destination_namespace}} let in"},
			{Expr: "sum by (weft_destination_namespace) (rate(weft_node_refused_connections_total" + rates + ")) or vector(0)", Legend: "{{weft_destination_namespace}} refused"},
		}},
		{Title: "Versions", Unit: unitShort, Says: "Of proxies.", Queries: []Query{
			{Expr: "sum by (version) (weft_build_info)", Legend: "{{version}}"},
		}},
		{Title: "Rate limits that ran out of room", Unit: unitRate, Says: "Requests that shared a limit because too many values of its key were in use.", Queries: []Query{
			{Expr: "sum(rate(weft_rate_limit_crowded_total" + rates + "))", Legend: "requests"},
		}},
	}},
}
