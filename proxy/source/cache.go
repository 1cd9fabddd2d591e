package source

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strconv"

	"weft.dev/weft/proxy/held"
	"weft.dev/weft/proxy/wire"
)

// cacheSchema is the version of the file's form. A file of another one is not read.
const cacheSchema = 2

// minCompaction is the least size, in bytes, that a file grows to before it is written anew.
const minCompaction = 1 << 20

// Cache saves the configuration in force in one file, so that a container that restarts while the
// operator is away comes back with it. The file begins with a complete state; each delta is appended to
// it, and when the appended part outgrows the state, a new file takes its place by an atomic rename: the
// cost of saving a change is the size of the change. Every record ends with a checksum.
//
// A Cache belongs to one Stream. It must not be copied.
type Cache struct {
	// Path is the file. Its directory must exist, be private to the container and live as long as the
	// pod.
	Path string
	// PrivateKeys allows certificates, which hold private keys, to be saved. Set it only when the
	// directory is a memory-backed volume: by default keys never reach a disk, and a restarted proxy
	// gets its certificates from the operator.
	PrivateKeys bool

	// state is what is saved, and whatever else is in force. shared tells that it is kept up to date by the Stream.
	state  *held.Set
	shared bool
	file   *os.File
	// size is the length of the file, base that of its first record.
	size, base int64
}

// cacheHeader is the first line of the file.
type cacheHeader struct {
	Format string `json:"format"`
	Schema int    `json:"schema"`
}

const cacheFormat = "weft-config"

var checksum = crc32.MakeTable(crc32.Castagnoli)

// Load returns the saved resources, in the order of their Refs. The error says why a file is not used;
// it wraps fs.ErrNotExist if there is none. A last record that was cut off by the end of the process is
// left out: the state before it is complete in itself.
func (c *Cache) Load() ([]wire.Resource, error) {
	if !c.shared {
		c.state = new(held.Set)
	}
	data, err := os.ReadFile(c.Path)
	if err != nil {
		return nil, fmt.Errorf("saved configuration: %w", err)
	}
	state, err := decodeCache(data)
	if err != nil {
		return nil, fmt.Errorf("saved configuration %s: %w", c.Path, err)
	}
	for ref := range state {
		if !c.keeps(ref) {
			delete(state, ref)
		}
	}
	resources := sorted(state)
	if !c.shared {
		c.state.Apply(wire.Delta{Upserted: resources}, nil)
	}
	return resources, nil
}

func (c *Cache) keeps(ref wire.Ref) bool { return c.PrivateKeys || ref.Kind != wire.KindCertificate }

func sorted(state map[wire.Ref]wire.Resource) []wire.Resource {
	return slices.SortedFunc(maps.Values(state), func(a, b wire.Resource) int { return compareRefs(a.Ref, b.Ref) })
}

// record saves an applied delta, which is in a shared state already.
func (c *Cache) record(d wire.Delta) error {
	d = c.filter(d)
	if len(d.Upserted) == 0 && len(d.Removed) == 0 {
		return nil
	}
	if !c.shared {
		if c.state == nil {
			c.state = new(held.Set)
		}
		c.state.Apply(d, nil)
	}
	err := c.append(d)
	if err != nil {
		// What is in the file now is unknown: the next record begins a new one.
		err = errors.Join(fmt.Errorf("saving configuration: %w", err), c.close())
	}
	return err
}

// filter leaves out what may not be saved.
func (c *Cache) filter(d wire.Delta) wire.Delta {
	var kept wire.Delta
	for _, r := range d.Upserted {
		if c.keeps(r.Ref) {
			kept.Upserted = append(kept.Upserted, r)
		}
	}
	for _, ref := range d.Removed {
		if c.keeps(ref) {
			kept.Removed = append(kept.Removed, ref)
		}
	}
	return kept
}

func (c *Cache) append(d wire.Delta) error {
	if c.file == nil {
		return c.rewrite()
	}
	line, err := encodeRecord(d)
	if err != nil {
		return err
	}
	if c.size+int64(len(line)) > max(2*c.base, minCompaction) {
		return c.rewrite()
	}
	n, err := c.file.Write(line)
	c.size += int64(n)
	return err
}

// rewrite makes a new file of the whole state and puts it in the place of the old one.
func (c *Cache) rewrite() error {
	if err := c.close(); err != nil {
		return err
	}
	temporary := c.Path + ".new"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	c.file = file
	size, err := writeState(file, c.saved())
	if err != nil {
		return err
	}
	// A container that restarts finds what was written; after the loss of power the checksums tell what
	// is worth, so nothing waits for the disk.
	if err := os.Rename(temporary, c.Path); err != nil {
		return err
	}
	c.size, c.base = size, size
	return nil
}

// close lets go of the file; the next record begins a new one.
func (c *Cache) close() error {
	if c.file == nil {
		return nil
	}
	file := c.file
	c.file = nil
	return file.Close()
}

// saved are the resources of the state that may be saved, sorted.
func (c *Cache) saved() iter.Seq[wire.Resource] {
	return func(yield func(wire.Resource) bool) {
		for _, h := range c.state.Versions() {
			if r, ok := c.state.Get(h.Ref); ok && c.keeps(h.Ref) && !yield(r) {
				return
			}
		}
	}
}

// writeState writes a whole file, one resource after the other: a state may be large. It returns the file's size.
func writeState(file io.Writer, resources iter.Seq[wire.Resource]) (size int64, err error) {
	header, err := json.Marshal(cacheHeader{Format: cacheFormat, Schema: cacheSchema})
	if err != nil {
		return 0, err
	}
	out, sum := bufio.NewWriterSize(file, 1<<16), crc32.New(checksum)
	write := func(data ...[]byte) {
		for _, d := range data {
			_, _ = sum.Write(d) // it never fails
			_, _ = out.Write(d) // the failure is that of Flush
			size += int64(len(d))
		}
	}
	write(header, []byte("\n"))
	sum.Reset()
	separator := `{"seq":0,"upserted":[`
	for r := range resources {
		data, err := json.Marshal(r)
		if err != nil {
			return 0, err
		}
		write([]byte(separator), data)
		separator = ","
	}
	if separator == "," {
		write([]byte("]}"))
	} else {
		write([]byte(`{"seq":0}`))
	}
	write(fmt.Appendf(nil, " %08x\n", sum.Sum32()))
	return size, out.Flush()
}

// encodeRecord returns one line: the delta in JSON, a space, the checksum in eight hexadecimal digits.
func encodeRecord(d wire.Delta) ([]byte, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(data, " %08x\n", crc32.Checksum(data, checksum)), nil
}

// decodeCache returns the state that a file describes.
func decodeCache(data []byte) (map[wire.Ref]wire.Resource, error) {
	line, rest, ok := bytes.Cut(data, []byte("\n"))
	var header cacheHeader
	if err := json.Unmarshal(line, &header); !ok || err != nil || header.Format != cacheFormat {
		return nil, errors.New("not a configuration file")
	}
	if header.Schema != cacheSchema {
		return nil, fmt.Errorf("schema %d is not %d", header.Schema, cacheSchema)
	}
	state := map[wire.Ref]wire.Resource{}
	for number := 2; ; number++ {
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		if !ok {
			if number == 2 {
				return nil, errors.New("the state is incomplete")
			}
			return state, nil
		}
		d, err := decodeRecord(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		for _, ref := range d.Removed {
			delete(state, ref)
		}
		for _, r := range d.Upserted {
			state[r.Ref] = r
		}
	}
}

func decodeRecord(line []byte) (*wire.Delta, error) {
	at := bytes.LastIndexByte(line, ' ')
	if at < 0 || len(line)-at != 9 {
		return nil, errors.New("no checksum")
	}
	data := line[:at]
	want, err := strconv.ParseUint(string(line[at+1:]), 16, 32)
	if err != nil {
		return nil, errors.New("no checksum")
	}
	if uint64(crc32.Checksum(data, checksum)) != want {
		return nil, errors.New("the checksum is wrong")
	}
	var d wire.Delta
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

func compareRefs(a, b wire.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
}
