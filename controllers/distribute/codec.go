package distribute

import (
	"encoding/json"
	"fmt"
	"strconv"

	"google.golang.org/grpc/mem"

	"weft.dev/weft/proxy/wire"
)

// codec carries ClientMessages up and deltas down as JSON. It is bound to the server and not registered
// with gRPC, which would make it global.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return wire.Codec }

// Marshal implements encoding.CodecV2. A delta is put together from the encoded resources, which all
// clients share: sending one to many clients neither encodes nor copies it again for each.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	d, ok := v.(*delta)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return d.encode()
}

// encode returns the ServerMessage that carries the delta.
func (d *delta) encode() (mem.BufferSlice, error) {
	head := strconv.AppendUint([]byte(`{"delta":{"seq":`), d.seq, 10)
	if len(d.upserted) > 0 {
		head = append(head, `,"upserted":[`...)
	}
	out := make(mem.BufferSlice, 1, 2*len(d.upserted)+2)
	out[0] = mem.SliceBuffer(head)
	for i, p := range d.upserted {
		if i > 0 {
			out = append(out, comma)
		}
		out = append(out, mem.SliceBuffer(p.json()))
	}
	var tail []byte
	if len(d.upserted) > 0 {
		tail = append(tail, ']')
	}
	if len(d.removed) > 0 {
		removed, err := json.Marshal(d.removed)
		if err != nil {
			return nil, fmt.Errorf("removed resources: %w", err)
		}
		tail = append(append(tail, `,"removed":`...), removed...)
	}
	out = append(out, mem.SliceBuffer(append(tail, `}}`...)))
	d.size = out.Len()
	return out, nil
}

var comma = mem.SliceBuffer(",")

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if err := json.Unmarshal(data.Materialize(), v); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	return nil
}
