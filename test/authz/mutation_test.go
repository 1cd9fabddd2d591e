package authz_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutation is a bug in the source of the engine: old, which is there once, becomes new.
type mutation struct{ file, old, new string }

var mutations = map[string]mutation{
	"audit denies": {"authz/authz.go", `audited.Verdict = WouldDeny`, `audited.Verdict = Denied`},
	"the port of a target does not count": {
		"authz/authz.go", `(t.port == 0 || t.port == r.Port)`, `(t.port == 0 || r.Port > 0)`,
	},
	"a policy for some requests allows what may be one": {"authz/authz.go", ` && p.concerns(r, true)`, ``},
	"a policy for some requests is for those that certainly are": {
		"authz/authz.go", `return counts(p) && p.concerns(r, false)`, `return counts(p) && p.concerns(r, true)`,
	},
	"Allow policies believe invalid tokens": {
		"authz/authz.go", `if _, err := r.presented(p); err != nil {`, `if _, err := r.presented(p); err != nil && p.deny {`,
	},
	"bytes are not what is denied": {"authz/rule.go", `return len(o.http) == 0 || deny`, `return len(o.http) == 0`},
	"one of several sources is enough of each field": {
		"authz/rule.go", `return !slices.ContainsFunc(s.parts, func(part sourcePart) bool { return !part(r, deny) })`,
		`return slices.ContainsFunc(s.parts, func(part sourcePart) bool { return part(r, deny) })`,
	},
	"the path is read in one way": {"authz/operation.go", `for i, path := range r.paths {`, `for i, path := range r.paths[:1] {`},
	"a prefix ends within a segment": {
		"authz/operation.go", `return ok && (rest == "" || rest[0] == '/') || value == ""`, `return ok && (rest == "" || rest[0] != 0) || value == ""`,
	},
	"of several values of a header one allows": {
		"authz/operation.go", `return len(values) > 0 && !slices.ContainsFunc(values, func(s string) bool { return !matches(s) })`,
		`return slices.ContainsFunc(values, matches)`,
	},
	"of several tokens the first counts": {
		"authz/token.go", `out.err = errSeveral`, `out.token, out.err = p.tokens.verifier.Verify(found[0], r.Now)`,
	},
	"headers like those of claims stay": {
		"authz/token.go", `own().Header = slices.DeleteFunc(own().Header, func(f phttp.Field) bool { return sameName(f.Name, name) })`, `own().Header.Del(name)`,
	},
	"a condition that fails denies nothing": {
		"authz/condition.go", `holds := err != nil && deny || err == nil && value.Value() == true`, `holds := err == nil && value.Value() == true`,
	},
	"conditions see the path in one way": {"authz/condition.go", `paths = r.paths[:]`, `paths = r.paths[:1]`},
	"audiences do not count":             {"jwt/verify.go", `if len(by.audiences) > 0 && `, `if len(by.audiences) > 100 && `},
	"the name of a key does not count": {
		"jwt/keys.go", `header.KeyID != "" && candidate.id != "" && header.KeyID != candidate.id ||`, ``,
	},
	"tokens end later":            {"jwt/verify.go", `expires.Add(Skew)`, `expires.Add(2 * Skew)`},
	"tokens for any end are used": {"jwt/verify.go", `return ok && (text == "jwt" || text == "at+jwt")`, `return ok || text == ""`},
}

// TestFindsMutations builds the engine with each of the bugs, and the comparison fails.
func TestFindsMutations(t *testing.T) {
	sources, err := filepath.Abs("../../proxy")
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(sources, m.file)
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("%s has %q %d times", m.file, m.old, n)
			}
			dir := t.TempDir()
			mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
			write(t, mutant, []byte(strings.Replace(string(source), m.old, m.new, 1)))
			replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: mutant}})
			if err != nil {
				t.Fatal(err)
			}
			write(t, overlay, replace)
			out, err := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", overlay, "-run", "^TestAgainstReference$", ".", "-pairs", "50000").CombinedOutput()
			switch {
			case err == nil:
				t.Error("not found")
			case !strings.Contains(string(out), "--- FAIL: TestAgainstReference"):
				t.Errorf("the engine does not run: %v\n%s", err, out)
			case !strings.Contains(string(out), ", want {"):
				t.Errorf("no difference was found:\n%s", out)
			}
		})
	}
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
