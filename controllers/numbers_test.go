package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/uuid"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

const (
	uidA = "6f6a3c1e-0000-4000-8000-00000000000a"
	uidB = "0f6a3c1e-0000-4000-8000-00000000000b"
)

func TestNumbersSurviveEncoding(t *testing.T) {
	want := compile.Numbers{
		{UID: uidA, Port: 80}:  wire.MinNumber,
		{UID: uidA, Port: 443}: wire.MaxNumber,
		{UID: uidB, Port: 80}:  20000,
	}
	data, err := encodeNumbers(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeNumbers(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
}

func TestAllNumbersFitIntoAConfigMap(t *testing.T) {
	numbers := compile.Numbers{}
	for n := wire.MinNumber; n <= wire.MaxNumber; n++ {
		numbers[compile.NumberKey{UID: uuid.NewUUID(), Port: uint16(n)}] = uint16(n)
	}
	data, err := encodeNumbers(numbers)
	if err != nil {
		t.Fatal(err)
	}
	if limit := 1<<20 - 4096; len(data) > limit {
		t.Errorf("%d numbers take %d bytes, more than a ConfigMap holds", len(numbers), len(data))
	}
}

func TestDamagedNumbersAreRefused(t *testing.T) {
	data, err := encodeNumbers(compile.Numbers{{UID: uidA, Port: 80}: 20000})
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"cut off": data[:len(data)-6], "one number twice": append(data, data...)} {
		if got, err := decodeNumbers(damaged); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}
