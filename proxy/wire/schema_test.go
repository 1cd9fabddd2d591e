package wire

import (
	"encoding"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The file testdata/schema has a line for each field that travels: its name, its type, the revision that it came with,
// and what a receiver of an earlier one makes of a message that has it:
//
//	needed  it must not be counted as one that has the resource in force: Needs says so
//	else    why leaving it out changes nothing that anybody relies on
//
// It is written by hand. That is the point of it: a field that is added, renamed or taken away fails TestSchema until
// somebody has thought about the receivers that do not know it (docs/adr/0021-wire-revision.md).
const schemaFile = "testdata/schema"

const needed = "needed"

// field is one line of the file.
type field struct {
	name, goType string
	revision     int
	without      string
}

func readSchema(t *testing.T) map[string]field {
	t.Helper()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]field{}
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 {
			t.Fatalf("%s:%d: want name, type, revision and what it is to those who do not know it", schemaFile, i+1)
		}
		revision, err := strconv.Atoi(words[2])
		if err != nil || revision < 0 || revision > Revision {
			t.Fatalf("%s:%d: %q is no revision up to %d", schemaFile, i+1, words[2], Revision)
		}
		f := field{words[0], words[1], revision, strings.Join(words[3:], " ")}
		if _, twice := fields[f.name]; twice {
			t.Errorf("%s:%d: %s is there twice", schemaFile, i+1, f.name)
		}
		if (f.without == "") != (f.revision == 0) {
			t.Errorf("%s:%d: say what receivers do that do not know %s, and only where there are any", schemaFile, i+1, f.name)
		}
		fields[f.name] = f
	}
	return fields
}

// travels collects the fields of a type and of all types that it is made of.
func travels(t reflect.Type, into map[string]field) {
	name := strings.TrimPrefix(t.String(), "wire.")
	for f := range members(t) {
		key := name + "." + f.name
		if _, known := into[key]; known {
			return
		}
		into[key] = field{name: key, goType: strings.ReplaceAll(f.String(), "wire.", "")}
		travels(elem(f.Type), into)
	}
}

type member struct {
	name  string
	index []int
	reflect.Type
}

// members yields the fields of a struct as JSON has them; nothing of types that are none, or that write themselves.
func members(t reflect.Type) func(yield func(member) bool) {
	return func(yield func(member) bool) {
		_, text := reflect.New(t).Interface().(encoding.TextMarshaler)
		if t.Kind() != reflect.Struct || text {
			return
		}
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Anonymous || name == "-" {
				continue
			}
			if name == "" {
				name = f.Name
			}
			if !yield(member{name, f.Index, f.Type}) {
				return
			}
		}
	}
}

// elem is what a type is a pointer to or a list of.
func elem(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func TestSchema(t *testing.T) {
	has := map[string]field{}
	for _, message := range []any{ClientMessage{}, ServerMessage{}, routeBefore{}} {
		travels(reflect.TypeOf(message), has)
	}
	want := readSchema(t)
	for _, name := range slices.Sorted(maps.Keys(has)) {
		switch f, known := want[name]; {
		case !known:
			t.Errorf("%[1]s (%[2]s) is new. If somebody relies on what it says, then Revision has to grow, Needs to return it, and the line "+
				"in %[3]s is\n\t%[1]s %[2]s %[4]d %[5]s\nOtherwise the line has the present revision and says why it is no harm when it is left out: "+
				"see docs/adr/0021-wire-revision.md", name, has[name].goType, schemaFile, Revision+1, needed)
		case f.goType != has[name].goType:
			t.Errorf("%s was %s and is %s: a field is never given another meaning; add one with another name", name, f.goType, has[name].goType)
		}
		delete(want, name)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		t.Errorf("%s is gone: receivers of earlier releases still look for it, and what they send has it. If no release that works together "+
			"with this one knows it, remove its line in %s", name, schemaFile)
	}
}

// TestNeededFields: a resource that has a field which its receiver must know says so.
func TestNeededFields(t *testing.T) {
	schema := readSchema(t)
	resource := reflect.TypeOf(Resource{})
	checked := 0
	check := func(f field, at []member) {
		if f.without != needed || sentTwice(at) {
			return
		}
		checked++
		if got := with(at).Needs(); got < f.revision {
			t.Errorf("%s came with revision %d, and a resource that has it at %s needs %d", f.name, f.revision, pathOf(at), got)
		}
	}
	for content := range members(resource) {
		if content.Kind() != reflect.Pointer {
			continue
		}
		check(schema["Resource."+content.name], []member{content})
		var walk func(path []member, seen map[reflect.Type]bool)
		walk = func(path []member, seen map[reflect.Type]bool) {
			owner := elem(path[len(path)-1].Type)
			if seen[owner] {
				return
			}
			seen = maps.Clone(seen)
			seen[owner] = true
			for m := range members(owner) {
				at := append(slices.Clone(path), m)
				check(schema[strings.TrimPrefix(owner.String(), "wire.")+"."+m.name], at)
				walk(at, seen)
			}
		}
		walk([]member{content}, map[reflect.Type]bool{})
	}
	if checked == 0 {
		t.Error("no field is needed")
	}
}

// sentTwice tells of what a route says in the words of revision 0 as well: see TestRouteForTheLastRelease.
func sentTwice(path []member) bool {
	name := pathOf(path)
	return strings.HasPrefix(name, "route.policy.timeouts") || strings.HasPrefix(name, "route.policy.retry") || name == "route.policy"
}

func pathOf(path []member) string {
	names := make([]string, len(path))
	for i, m := range path {
		names[i] = m.name
	}
	return strings.Join(names, ".")
}

// with returns a resource that has one field set, and what leads to it.
func with(path []member) *Resource {
	r := &Resource{}
	v := reflect.ValueOf(r).Elem()
	for _, m := range path {
		v = fill(v.FieldByIndex(m.index))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	}
	return r
}

// fill makes what a pointer points to, or the first of a list, and returns that.
func fill(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		return fill(v.Index(0))
	default:
		return v
	}
}
