package wire

import (
	"fmt"
	"reflect"
	"strings"
)

// inheritWhole is the value of the tag "inherit" of a struct whose fields come from one level.
const inheritWhole = "whole"

// Overlay returns base with every field that over sets taken from over. Structs are merged field by field
// unless they are marked `inherit:"whole"`; everything else, lists included, is replaced. Either may be nil;
// the result is nil if both are, shares what it can with its arguments, and changes neither.
func Overlay(base, over *Policy) *Policy {
	if base == nil {
		return over
	}
	if over == nil {
		return base
	}
	merged := overlay(reflect.ValueOf(base), reflect.ValueOf(over))
	return merged.Interface().(*Policy) //nolint:forcetypeassert // overlay keeps the type
}

// overlay merges two pointers to structs of one type, neither nil.
func overlay(base, over reflect.Value) reflect.Value {
	merged := reflect.New(base.Type().Elem())
	for i := range merged.Elem().NumField() {
		low, high := base.Elem().Field(i), over.Elem().Field(i)
		switch {
		case high.IsZero():
			merged.Elem().Field(i).Set(low)
		case low.IsZero() || !mergeable(merged.Elem().Type().Field(i)):
			merged.Elem().Field(i).Set(high)
		default:
			merged.Elem().Field(i).Set(overlay(low, high))
		}
	}
	return merged
}

// mergeable tells whether a field holds a struct that is inherited field by field.
func mergeable(f reflect.StructField) bool {
	return f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct && f.Tag.Get("inherit") != inheritWhole
}

// PolicyField is one field that a Policy sets: its path, such as "retry.attempts", and its value.
type PolicyField struct {
	Path  string
	Value any
}

// Fields lists what a policy sets, in the order of the type's fields. A part that is inherited whole, and a
// list, is one field. Of a nil policy there are none.
func (p *Policy) Fields() []PolicyField {
	if p == nil {
		return nil
	}
	return fieldsOf("", reflect.ValueOf(p))
}

func fieldsOf(under string, p reflect.Value) []PolicyField {
	var fields []PolicyField
	for i := range p.Elem().NumField() {
		value, field := p.Elem().Field(i), p.Elem().Type().Field(i)
		if value.IsZero() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case mergeable(field):
			fields = append(fields, fieldsOf(under+name+".", value)...)
		case value.Kind() == reflect.Pointer && value.Elem().Kind() != reflect.Struct:
			fields = append(fields, PolicyField{under + name, value.Elem().Interface()})
		default:
			fields = append(fields, PolicyField{under + name, value.Interface()})
		}
	}
	return fields
}

// String returns "path=value".
func (f PolicyField) String() string { return fmt.Sprintf("%s=%v", f.Path, f.Value) }
