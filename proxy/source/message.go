package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"weft.dev/weft/proxy/wire"
)

// readMessage reads a message one resource after the other, so that what has been read of a large one need not be kept.
// It reads what json.Unmarshal would, except that the names of fields must be written as they are.
func readMessage(r io.Reader, message *wire.ServerMessage) error {
	decoder := json.NewDecoder(r)
	open, err := begin(decoder, '{')
	if open && err == nil {
		err = readFields(decoder, func(name string) (err error) {
			if name != "delta" {
				return skip(decoder)
			}
			message.Delta, err = readDelta(decoder)
			return err
		})
	}
	if err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// readDelta returns nil if there is null.
func readDelta(decoder *json.Decoder) (*wire.Delta, error) {
	open, err := begin(decoder, '{')
	if !open || err != nil {
		return nil, err
	}
	delta := new(wire.Delta)
	return delta, readFields(decoder, func(name string) error {
		switch name {
		case "seq":
			return decoder.Decode(&delta.Seq)
		case "upserted":
			return readResources(decoder, delta)
		case "removed":
			return decoder.Decode(&delta.Removed)
		}
		return skip(decoder)
	})
}

func readResources(decoder *json.Decoder, delta *wire.Delta) error {
	open, err := begin(decoder, '[')
	if !open || err != nil {
		return err
	}
	known := shared{}
	for decoder.More() {
		var r wire.Resource
		if err := decoder.Decode(&r); err != nil {
			return err
		}
		r.Share(known.string)
		delta.Upserted = append(delta.Upserted, r)
	}
	_, err = decoder.Token()
	return err
}

// begin reads the first token of an object or array; it is not open if there is null.
func begin(decoder *json.Decoder, with json.Delim) (open bool, err error) {
	switch token, err := decoder.Token(); {
	case err != nil:
		return false, err
	case token == nil:
		return false, nil
	case token != with:
		return false, fmt.Errorf("there is %v instead of %v", token, with)
	}
	return true, nil
}

// readFields calls field for each field of an object that has begun, whose value it reads.
func readFields(decoder *json.Decoder, field func(name string) error) error {
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		if err := field(name.(string)); err != nil { //nolint:forcetypeassert // names of fields are nothing else
			return err
		}
	}
	_, err := decoder.Token()
	return err
}

func skip(decoder *json.Decoder) error { return decoder.Decode(new(json.RawMessage)) }

// shared lets resources that are received together share the strings that many of them have: keys and names.
type shared map[string]string

func (s shared) string(text string) string {
	if known, ok := s[text]; ok {
		return known
	}
	s[text] = text
	return text
}
