package olm

import (
	"os"
	"strings"
	"testing"
)

func TestTheCatalogBreaksNoRule(t *testing.T) {
	data, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range CheckCatalog(data, committed(t)) {
		t.Error(f)
	}
}

func TestCheckCatalogFinds(t *testing.T) {
	data, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ old, new, want string }{
		"no document":             {"schema: olm.channel", "schema: olm.other", "schemas"},
		"another package":         {"schema: olm.package", "schema: olm.package\nname: other", "the package is named other"},
		"a channel that is none":  {"defaultChannel: candidate", "defaultChannel: stable", "there is no channel stable"},
		"an entry without bundle": {"- name: weft.v0.1.0\n", "- name: weft.v0.2.0\n", "is no bundle"},
		"two heads":               {"- name: weft.v0.1.0\n", "- name: weft.v0.1.0\n- name: weft.v0.1.0\n", "2 heads"},
		"another version":         {"version: 0.1.0\n", "version: 0.2.0\n", "has version 0.2.0"},
		"objects in the catalog":  {"type: olm.csv.metadata", "type: olm.bundle.object", "olm.csv.metadata"},
		"a kind too few":          {"type: olm.gvk", "type: olm.other", "provides 2 kinds"},
		"an image too few":        {"- image: weft-node:v0.1.0\n  name: weft-node\n", "", "3 related images"},
		"no image of the bundle":  {"image: weft-bundle:v0.1.0\nname", "image: \"\"\nname", "has no image"},
		"a bundle of another":     {"schema: olm.bundle", "schema: olm.bundle\n---\nschema: olm.bundle\npackage: other\nname: weft.v0.0.1", "of package other"},
		"no YAML":                 {"schema: olm.package", "schema: [", "decode"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(data), tc.old, tc.new, 1)
			if tc.new == "schema: olm.package\nname: other" {
				changed = strings.Replace(string(data), "name: weft\nschema: olm.package", "name: other\nschema: olm.package", 1)
			}
			if changed == string(data) {
				t.Fatalf("the catalog has no %q", tc.old)
			}
			for _, f := range CheckCatalog([]byte(changed), committed(t)) {
				if strings.Contains(f.Why, tc.want) {
					return
				}
			}
			t.Errorf("found %v, want %q", CheckCatalog([]byte(changed), committed(t)), tc.want)
		})
	}
}
