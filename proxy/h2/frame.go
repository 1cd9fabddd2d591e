package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// frame is a frame that was read (RFC 9113 section 4.1). Its payload is valid until the next is read.
type frame struct {
	kind    http2.FrameType
	flags   http2.Flags
	stream  uint32
	payload []byte
}

func (f *frame) has(flag http2.Flags) bool { return f.flags&flag != 0 }

// number is the number of 32 bits at a place of the payload.
func (f *frame) number(at int) uint32 { return binary.BigEndian.Uint32(f.payload[at:]) }

// intake is what has come on a connection and was not acted on.
type intake struct {
	memory     []byte
	start, end int
}

// next returns the next frame if all of it has come. most is the largest payload.
func (i *intake) next(most int) (f frame, ok bool, wrong *fault) {
	p := i.memory[i.start:i.end]
	if len(p) < frameHead {
		return frame{}, false, nil
	}
	length := lengthAt(p)
	if length > most {
		return frame{}, false, errFrameSize
	}
	if len(p) < frameHead+length {
		return frame{}, false, nil
	}
	i.start += frameHead + length
	f = frame{
		kind: http2.FrameType(p[3]), flags: http2.Flags(p[4]), stream: binary.BigEndian.Uint32(p[5:]) &^ (1 << 31),
		payload: p[frameHead : frameHead+length],
	}
	return f, true, f.shape()
}

// lengthAt is the length of the payload of a frame that begins with p.
func lengthAt(p []byte) int { return int(p[0])<<16 | int(p[1])<<8 | int(p[2]) }

// room returns memory for what comes next, at least for the rest of the frame that has begun.
func (i *intake) room() []byte {
	rest := i.end - i.start
	need := readBuffer
	if rest >= frameHead {
		need = max(need, frameHead+lengthAt(i.memory[i.start:i.end]))
	}
	switch {
	case len(i.memory) < need:
		memory := make([]byte, need)
		copy(memory, i.memory[i.start:i.end])
		i.memory = memory
	case i.start > 0:
		copy(i.memory, i.memory[i.start:i.end])
	}
	i.start, i.end = 0, rest
	return i.memory[rest:]
}

// add takes what has come before anybody could ask for room.
func (i *intake) add(p []byte) {
	i.memory = append(i.memory[:i.end], p...)
	i.end = len(i.memory)
}

// shape returns the rule that the length or the stream of a frame breaks (RFC 9113 section 6).
func (f *frame) shape() *fault {
	n, ofStream := len(f.payload), f.stream != 0
	var wrongSize, wrongStream bool
	switch f.kind {
	case http2.FrameData, http2.FrameHeaders, http2.FrameContinuation:
		wrongStream = !ofStream
	case http2.FramePriority:
		wrongSize, wrongStream = n != 5, !ofStream
	case http2.FrameRSTStream:
		wrongSize, wrongStream = n != 4, !ofStream
	case http2.FrameSettings:
		wrongSize, wrongStream = n%6 != 0 || n > 0 && f.has(http2.FlagSettingsAck), ofStream
	case http2.FramePing:
		wrongSize, wrongStream = n != 8, ofStream
	case http2.FrameGoAway:
		wrongSize, wrongStream = n < 8, ofStream
	case http2.FrameWindowUpdate:
		wrongSize = n != 4
	}
	switch {
	case wrongStream:
		return errFrameStream
	case wrongSize:
		return errFrameSize
	}
	return nil
}

// unpad takes padding, and what HEADERS say of a priority, off the payload. dependency is the stream that it is said to
// depend on, zero if that is not said.
func (f *frame) unpad() (p []byte, dependency uint32, wrong *fault) {
	p = f.payload
	padding := 0
	if f.has(http2.FlagDataPadded) { // the same as of HEADERS
		if len(p) == 0 {
			return nil, 0, errFrameSize
		}
		padding, p = int(p[0]), p[1:]
	}
	if f.kind == http2.FrameHeaders && f.has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return nil, 0, errFrameSize
		}
		dependency, p = binary.BigEndian.Uint32(p)&^(1<<31), p[5:]
	}
	if padding > len(p) {
		return nil, 0, errPadding
	}
	return p[:len(p)-padding], dependency, nil
}
