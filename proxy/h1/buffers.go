package h1

import (
	"sync"
	"unsafe"
)

// Buffers come in classes, so that an ordinary message takes 4 KiB and only who needs more has more.
var (
	bufferSizes = [...]int{4 << 10, 16 << 10, 64 << 10, MaxResponseHead}
	bufferPools [len(bufferSizes)]sync.Pool
)

// getBuffer returns memory of at least size bytes. size is at most that of the largest class.
func getBuffer(size int) *[]byte {
	class := 0
	for bufferSizes[class] < size {
		class++
	}
	if b, ok := bufferPools[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferSizes[class])
	return &b
}

// putBuffer gives memory back that getBuffer has returned. Nothing may refer to it any more.
func putBuffer(b *[]byte) {
	for class, size := range bufferSizes {
		if len(*b) == size {
			bufferPools[class].Put(b)
			return
		}
	}
}

// arena makes strings of bytes, many with one allocation. A byte of a block is written once and never again,
// so its strings may be kept like any others; a kept string keeps its block.
type arena struct{ block []byte }

// arenaBlock is the size of a block. It holds the heads of about ten requests of a browser.
const arenaBlock = 8 << 10

var arenas = sync.Pool{New: func() any { return new(arena) }}

// newString returns a string with the content of b.
func newString(b []byte) string {
	if len(b) > arenaBlock/4 {
		return string(b)
	}
	a, _ := arenas.Get().(*arena)
	defer arenas.Put(a)
	if len(b) > cap(a.block)-len(a.block) {
		a.block = make([]byte, 0, arenaBlock)
	}
	start := len(a.block)
	a.block = append(a.block, b...)
	// What lies before len(a.block) does not change any more.
	return unsafe.String(unsafe.SliceData(a.block[start:]), len(b))
}
