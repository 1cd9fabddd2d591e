// Package observability owns what is built on Weft's metrics: recording rules, alerts and dashboards. make golden
// writes the manifests of config/prometheus and config/grafana from it, and the tables of docs/observability.md. Its
// tests hold every name and label to those that the components have.
package observability

// Rule records the result of a query under a name.
type Rule struct {
	Record, Expr string
	// Says is what it is, for the documentation.
	Says string
}

// Alert fires while a query's result compares with a threshold, for long enough.
type Alert struct {
	Name string
	// Query has a result while all is well too, if anything is there to be judged. Compare is the operator and the
	// threshold.
	Query, Compare string
	For, Severity  string
	// Summary may use labels of the result, as Prometheus' templates do.
	Summary string
	// Runbook is the name of the file in docs/runbooks.
	Runbook string
}

// Expr is the alert's condition.
func (a *Alert) Expr() string { return a.Query + " " + a.Compare }

// runbooks is where people read what to do.
const runbooks = "https://weft.dev/docs/runbooks/"

// durations are the histograms of requests and of calls of gRPC. Their other labels tell them apart, so that both
// may be added.
func durations(side, suffix string) string {
	http, rpc := "http_"+side+"_request_duration_seconds_"+suffix, "rpc_"+side+"_call_duration_seconds_"+suffix
	return `__name__=~"` + http + `|` + rpc + `"`
}

// failed selects what counts as failed: an answer of 5xx, or a status of gRPC that is an error for servers.
const failed = `http_response_status_code=~"5..|",rpc_response_status_code=~"|UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS",error_type!="",error_type!="client_gone"`

// Labels that rules keep.
const (
	byService = "weft_destination_namespace, weft_destination_service, weft_destination_port"
	byCaller  = byService + ", weft_source_namespace, weft_source_service_account"
	byBackend = "weft_route_kind, weft_route_namespace, weft_route_name, weft_rule, weft_backend"
)

func sumRate(by, selector string) string {
	return "sum by (" + by + ") (rate({" + selector + "}[5m]))"
}

// clientsView selects what clients see, which the proxies of their namespace measure; over the hop the same request is
// measured once more.
const clientsView = `weft_listener="captured"`

// Rules are the recording rules.
var Rules = []Rule{
	{
		Record: "weft:requests:rate5m", Expr: sumRate(byCaller, durations("server", "count")+","+clientsView),
		Says: "requests a second, by the called Service and the caller",
	},
	{
		Record: "weft:requests_failed:rate5m", Expr: sumRate(byCaller, durations("server", "count")+","+clientsView+","+failed),
		Says: "those that failed: answered 5xx or with an error of gRPC",
	},
	{
		Record: "weft:request_duration_seconds:p50_5m", Expr: quantile("0.5", byService), Says: "median of the time to the end of the answer, by the called Service",
	},
	{
		Record: "weft:request_duration_seconds:p99_5m", Expr: quantile("0.99", byService), Says: "99th percentile of the same",
	},
	{
		Record: "weft:backend_requests:rate5m", Expr: sumRate(byBackend, durations("server", "count")+","+clientsView+`,weft_route_name!=""`),
		Says: "requests a second that a rule of a route has sent to a backend: what a release in steps looks at",
	},
	{
		Record: "weft:backend_requests_failed:rate5m", Expr: sumRate(byBackend, durations("server", "count")+","+clientsView+`,weft_route_name!="",`+failed),
		Says: "those that failed",
	},
	{
		Record: "weft:backend_request_duration_seconds:p99_5m",
		Expr:   "histogram_quantile(0.99, " + sumRate("le, "+byBackend, durations("server", "bucket")+","+clientsView+`,weft_route_name!=""`) + ")",
		Says:   "99th percentile of the time to the end of their answers",
	},
}

func quantile(q, by string) string {
	return "histogram_quantile(" + q + ", " + sumRate("le, "+by, durations("server", "bucket")+","+clientsView) + ")"
}

// Alerts are what somebody should look at. Those of severity critical need it now.
var Alerts = []Alert{
	{
		Name:  "WeftServiceFailing",
		Query: "sum by (" + byService + ") (weft:requests_failed:rate5m) / sum by (" + byService + ") (weft:requests:rate5m)", Compare: "> 0.05",
		For: "5m", Severity: "warning", Runbook: "service-failing",
		Summary: "{{ $value | humanizePercentage }} of the requests to {{ $labels.weft_destination_namespace }}/{{ $labels.weft_destination_service }} fail.",
	},
	{
		Name:  "WeftRetryStorm",
		Query: "sum by (weft_backend) (rate(weft_upstream_retries_total[5m])) / sum by (weft_backend) (rate({" + durations("client", "count") + "}[5m]))", Compare: "> 0.2",
		For: "5m", Severity: "warning", Runbook: "retry-storm",
		Summary: "{{ $value | humanizePercentage }} of the tries that {{ $labels.weft_backend }} gets repeat another one.",
	},
	{
		Name:  "WeftEndpointsOut",
		Query: `sum by (weft_backend) (weft_upstream_endpoints{state!="usable"}) / sum by (weft_backend) (weft_upstream_endpoints)`, Compare: ">= 0.5",
		For: "5m", Severity: "warning", Runbook: "endpoints-out",
		Summary: "Half of the instances of {{ $labels.weft_backend }} or more are ejected or fail their health check.",
	},
	{
		Name:  "WeftCircuitOpen",
		Query: "sum by (weft_backend, limit) (rate(weft_circuit_breaker_open_total[5m]))", Compare: "> 0",
		For: "5m", Severity: "warning", Runbook: "circuit-open",
		Summary: "Requests to {{ $labels.weft_backend }} are refused because its limit {{ $labels.limit }} is reached.",
	},
	{
		Name:  "WeftCallersDenied",
		Query: `sum by (weft_destination_namespace, weft_destination_service, weft_authorization_policy) (rate(weft_authorization_decisions_total{weft_authorization_verdict="denied"}[5m]))`, Compare: "> 0.1",
		For: "10m", Severity: "info", Runbook: "callers-denied",
		Summary: "{{ $labels.weft_authorization_policy }} denies calls of {{ $labels.weft_destination_namespace }}/{{ $labels.weft_destination_service }} all the time.",
	},
	{
		Name:  "WeftCertificateExpiring",
		Query: `min by (certificate, weft_source_service_account) (weft_certificate_expiration_timestamp_seconds{certificate="workload"} - time())`, Compare: "< 4 * 3600",
		For: "5m", Severity: "critical", Runbook: "certificate-expiring",
		Summary: "The certificate of a workload{{ with $labels.weft_source_service_account }} of ServiceAccount {{ . }}{{ end }} ends in {{ $value | humanizeDuration }} and was not renewed.",
	},
	{
		Name:  "WeftAuthorityExpiring",
		Query: `min by (certificate) (weft_certificate_expiration_timestamp_seconds{certificate!="workload"} - time())`, Compare: "< 30 * 86400",
		For: "1h", Severity: "critical", Runbook: "certificate-expiring",
		Summary: "The {{ $labels.certificate }} of the mesh ends in {{ $value | humanizeDuration }}.",
	},
	{
		Name:  "WeftNoLeader",
		Query: "(count(weft_config_client_lag_seconds) or vector(0))", Compare: "< 1",
		For: "5m", Severity: "critical", Runbook: "no-leader",
		Summary: "No operator serves configuration: nothing changes, and certificates are not renewed.",
	},
	{
		Name:  "WeftProxyDisconnected",
		Query: "min by (namespace, pod) (weft_config_connected)", Compare: "< 1",
		For: "5m", Severity: "warning", Runbook: "proxy-disconnected",
		Summary: "Proxy {{ $labels.namespace }}/{{ $labels.pod }} has no stream of configuration and serves by what it has.",
	},
	{
		Name:  "WeftConfigLag",
		Query: "max by (kind, k8s_namespace_name, k8s_pod_name) (weft_config_client_lag_seconds)", Compare: "> 60",
		For: "2m", Severity: "warning", Runbook: "config-lag",
		Summary: "The {{ $labels.kind }} {{ $labels.k8s_namespace_name }}/{{ $labels.k8s_pod_name }} does not acknowledge its configuration.",
	},
	{
		Name:  "WeftConfigRejected",
		Query: "sum by (kind) (increase(weft_config_rejections_total[10m]))", Compare: "> 0",
		For: "0m", Severity: "warning", Runbook: "config-rejected",
		Summary: "Proxies cannot use a {{ $labels.kind }} and keep its previous version.",
	},
	{
		Name:  "WeftProxyNotReady",
		Query: "min by (namespace, pod) (weft_ready)", Compare: "< 1",
		For: "5m", Severity: "warning", Runbook: "proxy-not-ready",
		Summary: "Proxy {{ $labels.namespace }}/{{ $labels.pod }} runs and is not ready.",
	},
	{
		Name:  "WeftCaptureNotProven",
		Query: "min by (pod, fact) (weft_node_canary_proven)", Compare: "< 1",
		For: "5m", Severity: "critical", Runbook: "capture-not-proven",
		Summary: "Node agent {{ $labels.pod }} cannot prove on its node: {{ $labels.fact }}.",
	},
	{
		Name:  "WeftSeriesDropped",
		Query: "sum by (namespace, pod) (increase(weft_telemetry_series_dropped_total[15m]))", Compare: "> 0",
		For: "0m", Severity: "warning", Runbook: "series-dropped",
		Summary: "Proxy {{ $labels.namespace }}/{{ $labels.pod }} has reached its limit of time series and counts what is new together.",
	},
	{
		Name:  "WeftSpansDropped",
		Query: "sum by (reason) (rate(weft_trace_spans_dropped_total[5m]))", Compare: "> 0",
		For: "10m", Severity: "warning", Runbook: "spans-dropped",
		Summary: "Proxies drop {{ $value | humanize }} spans a second ({{ $labels.reason }}): traces have holes, and requests go on.",
	},
	{
		Name:  "WeftLinesDropped",
		Query: "sum by (namespace, pod, reason) (rate(weft_access_log_lines_dropped_total[5m]))", Compare: "> 0",
		For: "5m", Severity: "warning", Runbook: "lines-dropped",
		Summary: "Proxy {{ $labels.namespace }}/{{ $labels.pod }} drops {{ $value | humanize }} lines of its access log a second ({{ $labels.reason }}), and requests go on.",
	},
}

// RunbookURL is where the alert's runbook is read.
func (a *Alert) RunbookURL() string { return runbooks + a.Runbook }
