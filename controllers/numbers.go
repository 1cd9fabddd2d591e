package controllers

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/controllers/compile"
)

const (
	numbersName = "weft-destinations"
	numbersKey  = "numbers"
)

// numberStore keeps destination numbers in a ConfigMap of Weft's namespace, so that a number survives
// the operator that gave it out. Only the leader uses it. The table is binary, sorted by number: with
// all 49,152 of them it still fits into one ConfigMap.
type numberStore struct {
	client    client.Client
	reader    client.Reader
	namespace string
}

// load returns the numbers given out so far. A table that does not parse is
// an error, because giving out numbers that are in use would send requests to the wrong Service.
func (s *numberStore) load(ctx context.Context) (compile.Numbers, error) {
	cm := &corev1.ConfigMap{}
	err := s.reader.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: numbersName}, cm)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get destination numbers: %w", err)
	}
	numbers := compile.Numbers{}
	if data, ok := cm.BinaryData[numbersKey]; ok {
		if numbers, err = decodeNumbers(data); err != nil {
			return nil, fmt.Errorf("configmap %s/%s: %w", s.namespace, numbersName, err)
		}
	}
	return numbers, nil
}

// save makes numbers durable. Nothing that uses a new number may be published before it returns.
func (s *numberStore) save(ctx context.Context, numbers compile.Numbers) error {
	data, err := encodeNumbers(numbers)
	if err != nil {
		return err
	}
	cm := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: numbersName},
		BinaryData: map[string][]byte{numbersKey: data},
	}
	err = s.client.Update(ctx, cm)
	if apierrors.IsNotFound(err) {
		err = s.client.Create(ctx, cm)
	}
	if err != nil {
		return fmt.Errorf("save destination numbers: %w", err)
	}
	return nil
}

// recordSize is a UID (a UUID's 16 bytes), a port and a number, both big-endian.
const recordSize = 16 + 2 + 2

func encodeNumbers(numbers compile.Numbers) ([]byte, error) {
	keys := slices.SortedFunc(maps.Keys(numbers), func(a, b compile.NumberKey) int {
		return cmp.Compare(numbers[a], numbers[b])
	})
	data := make([]byte, 0, len(keys)*recordSize)
	for _, key := range keys {
		id, err := uuid.Parse(string(key.UID))
		if err != nil {
			return nil, fmt.Errorf("destination numbers: uid %q: %w", key.UID, err)
		}
		data = append(data, id[:]...)
		data = binary.BigEndian.AppendUint16(data, key.Port)
		data = binary.BigEndian.AppendUint16(data, numbers[key])
	}
	return data, nil
}

func decodeNumbers(data []byte) (compile.Numbers, error) {
	if len(data)%recordSize != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of records", len(data))
	}
	numbers := compile.Numbers{}
	previous := uint16(0)
	for record := range slices.Chunk(data, recordSize) {
		key := compile.NumberKey{
			UID:  types.UID(uuid.UUID(record[:16]).String()),
			Port: binary.BigEndian.Uint16(record[16:]),
		}
		number := binary.BigEndian.Uint16(record[18:])
		if number <= previous {
			return nil, fmt.Errorf("number %d after %d: given out twice or damaged", number, previous)
		}
		numbers[key], previous = number, number
	}
	return numbers, nil
}
