package identity_test

import (
	"maps"
	"slices"
	"testing"

	"weft.dev/weft/controllers/identity"
)

// FuzzParseCA changes one entry of an authority's Secret. What is read all the same can issue.
func FuzzParseCA(f *testing.F) {
	data, err := identity.GenerateCA(start)
	if err != nil {
		f.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(data))
	for i, name := range names {
		f.Add(uint(i), data[name])
		f.Add(uint(i), data[names[0]])
		f.Add(uint(i), []byte{})
	}
	f.Fuzz(func(t *testing.T, i uint, content []byte) {
		changed := maps.Clone(data)
		changed[names[i%uint(len(names))]] = content
		ca, err := identity.ParseCA(changed)
		if err != nil {
			return
		}
		if ca.Bundle() == "" {
			t.Error("an authority without roots was read")
		}
	})
}
