package observability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// generated heads files that make golden writes.
const generated = "# Written by make golden from config/observability; edit the rules there.\n"

// PrometheusRule returns the manifest of all rules and alerts for the Prometheus operator.
func PrometheusRule() ([]byte, error) {
	recording := []map[string]any{}
	for _, r := range Rules {
		recording = append(recording, map[string]any{"record": r.Record, "expr": r.Expr})
	}
	alerts := []map[string]any{}
	for _, a := range Alerts {
		alerts = append(alerts, map[string]any{
			"alert": a.Name, "expr": a.Expr(), "for": a.For,
			"labels":      map[string]string{"severity": a.Severity},
			"annotations": map[string]string{"summary": a.Summary, "runbook_url": a.RunbookURL()},
		})
	}
	out, err := yaml.Marshal(map[string]any{
		"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
		"metadata": map[string]any{"name": "weft", "namespace": "weft-system", "labels": map[string]string{"app.kubernetes.io/part-of": "weft"}},
		"spec":     RuleGroups(recording, alerts),
	})
	return append([]byte(generated), out...), err
}

// RuleGroups are the groups of a rule file of Prometheus, which the spec of a PrometheusRule is too.
func RuleGroups(recording, alerts []map[string]any) map[string]any {
	return map[string]any{"groups": []map[string]any{
		{"name": "weft.rules", "rules": recording},
		{"name": "weft.alerts", "rules": alerts},
	}}
}

// JSON returns the dashboard as Grafana imports it.
func (d *Dashboard) JSON() ([]byte, error) {
	const width, height, perRow = 12, 8, 2
	source := map[string]string{"type": "prometheus", "uid": "${datasource}"}
	variables := []map[string]any{{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}}
	if d.ByService {
		variables = append(variables,
			variable("namespace", "label_values(weft:requests:rate5m, weft_destination_namespace)"),
			variable("service", `label_values(weft:requests:rate5m{weft_destination_namespace=~"$namespace"}, weft_destination_service)`))
	}
	panels := []map[string]any{}
	for i, p := range d.Panels {
		targets := []map[string]any{}
		for q, query := range p.Queries {
			targets = append(targets, map[string]any{
				"refId": string(rune('A' + q)), "expr": query.Expr, "legendFormat": query.Legend, "datasource": source,
				// Exemplars are on histograms, which lead to traces.
				"exemplar": strings.Contains(query.Expr, "_bucket"),
			})
		}
		panels = append(panels, map[string]any{
			"id": i + 1, "type": "timeseries", "title": p.Title, "description": p.Says, "datasource": source,
			"gridPos":     map[string]int{"x": i % perRow * width, "y": i / perRow * height, "w": width, "h": height},
			"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.Unit, "min": 0}, "overrides": []any{}},
			"targets":     targets,
		})
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(map[string]any{
		"uid": d.UID, "title": d.Title, "tags": []string{"weft"}, "schemaVersion": 39, "editable": true, "refresh": "30s",
		"time":       map[string]string{"from": "now-1h", "to": "now"},
		"templating": map[string]any{"list": variables}, "panels": panels,
	})
	if err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.UID, err)
	}
	return out.Bytes(), nil
}

// variable is one that Grafana fills with values of a label.
func variable(name, query string) map[string]any {
	return map[string]any{
		"name": name, "type": "query", "query": query, "datasource": map[string]string{"type": "prometheus", "uid": "${datasource}"},
		"refresh": 2, "includeAll": true, "multi": true, "allValue": ".*", "sort": 1,
	}
}
