package collect

import (
	"regexp"
	"strings"

	"weft.dev/weft/proxy/admin"
)

// removed stands in for what is left out.
const removed = "(redacted)"

// kept are the ends of the domains of annotations that are kept: those of others may hold anything.
var kept = []string{"weft.dev", "gateway.networking.k8s.io"}

// redactObject takes out of an API object what may be secret and what nobody needs. It is changed.
func redactObject(object map[string]any) {
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
		if annotations, ok := metadata["annotations"].(map[string]any); ok {
			for name := range annotations {
				domain, _, _ := strings.Cut(name, "/")
				if !keeps(domain) {
					annotations[name] = removed
				}
			}
		}
	}
	// These kinds are never asked for; should a list of others ever hold one, its content does not leave.
	for _, content := range []string{"data", "stringData", "binaryData"} {
		if _, ok := object[content]; ok {
			object[content] = removed
		}
	}
	redactValue(object)
}

func keeps(domain string) bool {
	for _, end := range kept {
		if strings.HasSuffix(domain, end) {
			return true
		}
	}
	return false
}

// redactValue takes secrets out of whatever JSON can hold: values of environment variables, values behind names that
// sound like those of secrets, such as headers that a route sets or matches, and expressions that speak of them.
func redactValue(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			redactValue(item)
		}
	case map[string]any:
		redactMap(v)
	}
}

func redactMap(m map[string]any) {
	name, _ := m["name"].(string)
	for key, value := range m {
		text, isText := value.(string)
		switch {
		case key == "env":
			redactEnvironment(value)
		case (key == "value" || key == "values") && admin.Secret(name):
			m[key] = removed
		case key == "expression" && isText && admin.Secret(text):
			m[key] = removed
		case isText:
			m[key] = scrub(text)
		default:
			redactValue(value)
		}
	}
}

// redactEnvironment leaves names: any value may be a secret.
func redactEnvironment(value any) {
	variables, ok := value.([]any)
	if !ok {
		return
	}
	for _, variable := range variables {
		if v, ok := variable.(map[string]any); ok && v["value"] != nil {
			v["value"] = removed
		}
	}
}

// scrubbed are forms that secrets have wherever they stand.
var scrubbed = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`), // JWT (RFC 7519)
	regexp.MustCompile(`(?i)\b(bearer|basic) [A-Za-z0-9._~+/=-]{8,}`),
	regexp.MustCompile(`//[^/\s:@"]+:[^/\s@"]+@`), // user and password of a URL
}

// scrub takes what looks like a secret out of a text.
func scrub(text string) string {
	for _, form := range scrubbed {
		text = form.ReplaceAllLiteralString(text, removed)
	}
	return text
}

// assigned are values behind names that sound like those of secrets, as logs write them. The names are the words that
// admin.Secret knows and that are not in everything a mesh says of itself.
var assigned = regexp.MustCompile(`(?i)([\w-]*(?:authorization|cookie|token|secret|api[-_]?key|password|credential)[\w-]*"?\s*[=:]\s*"?)([^\s"&;,]+)`)

// scrubLog takes what looks like a secret out of a line of a log, and what is behind such a name.
func scrubLog(text string) string {
	return assigned.ReplaceAllString(scrub(text), "${1}"+removed)
}
