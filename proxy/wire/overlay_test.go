package wire

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
)

func policy(t *testing.T, text string) *Policy {
	t.Helper()
	if text == "" {
		return nil
	}
	p := &Policy{}
	if err := json.Unmarshal([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOverlay(t *testing.T) {
	tests := map[string]struct{ base, over, want string }{
		"nothing":             {},
		"nothing over":        {base: `{"retry":{"attempts":2}}`, want: `{"retry":{"attempts":2}}`},
		"nothing under":       {over: `{"retry":{"attempts":2}}`, want: `{"retry":{"attempts":2}}`},
		"field by field":      {`{"retry":{"attempts":2,"codes":[503]}}`, `{"retry":{"attempts":3}}`, `{"retry":{"attempts":3,"codes":[503]}}`},
		"within fields":       {`{"retry":{"budget":{"percent":20}}}`, `{"retry":{"budget":{"interval":"5s"}}}`, `{"retry":{"budget":{"percent":20,"interval":"5s"}}}`},
		"zero says something": {`{"timeouts":{"request":"1s"}}`, `{"timeouts":{"request":"0s"}}`, `{"timeouts":{"request":"0s"}}`},
		"lists are replaced":  {`{"retry":{"codes":[500,503]}}`, `{"retry":{"codes":[502]}}`, `{"retry":{"codes":[502]}}`},
		"by nothing, too":     {`{"rateLimits":[{"requests":1,"interval":"1s","burst":1}]}`, `{"rateLimits":[]}`, `{"rateLimits":[]}`},
		"what belongs together": {
			`{"loadBalancing":{"algorithm":"ConsistentHash","hash":{"type":"Header","name":"user"}}}`,
			`{"loadBalancing":{"hash":{"type":"SourceAddress"}}}`,
			`{"loadBalancing":{"algorithm":"ConsistentHash","hash":{"type":"SourceAddress"}}}`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			base, over := policy(t, tc.base), policy(t, tc.over)
			got := Overlay(base, over)
			if want := policy(t, tc.want); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got.Fields(), want.Fields())
			}
			if !reflect.DeepEqual(base, policy(t, tc.base)) || !reflect.DeepEqual(over, policy(t, tc.over)) {
				t.Error("an argument was changed")
			}
		})
	}
}

func TestFields(t *testing.T) {
	p := policy(t, `{"retry":{"attempts":2,"codes":[503],"budget":{"percent":0}},"fault":{"delay":{"duration":"1s","percent":5}}}`)
	var paths []string
	for _, f := range p.Fields() {
		paths = append(paths, f.Path)
	}
	if want := []string{"retry.attempts", "retry.codes", "retry.budget.percent", "fault"}; !slices.Equal(paths, want) {
		t.Errorf("fields %v, want %v", paths, want)
	}
	if got := p.Fields()[0].String(); got != "retry.attempts=2" {
		t.Errorf("field is %q", got)
	}
}

// Whoever applies a policy relies on every field of the default being set.
func TestDefaultPolicyLeavesNothingOpen(t *testing.T) {
	var open func(path string, v reflect.Value)
	open = func(path string, v reflect.Value) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			switch {
			case field.Type.Kind() == reflect.Slice, field.Tag.Get("inherit") != "":
			case v.Field(i).IsNil():
				t.Errorf("%s%s is not set", path, field.Name)
			case field.Type.Elem().Kind() == reflect.Struct:
				open(path+field.Name+".", v.Field(i).Elem())
			}
		}
	}
	open("", reflect.ValueOf(DefaultPolicy()).Elem())
}
