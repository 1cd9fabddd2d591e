package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"
	"strconv"

	"weft.dev/weft/proxy/wire"
)

// cacheSchema is the version of the file's form. A file of a greater one is not read.
const cacheSchema = 1

// minCompaction is the least size, in bytes, that a file grows to before it is written anew.
const minCompaction = 1 << 20

// Cache saves the configuration in force in one file, so that a container that restarts while the
// operator is away comes back with it. The file begins with a complete state; each delta is appended to
// it, and when the appended part outgrows the state, a new file takes its place by an atomic rename: the
// cost of saving a change is the size of the change. Every record carries a checksum.
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

	state map[wire.Ref]wire.Resource
	file  *os.File
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
	c.state = map[wire.Ref]wire.Resource{}
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
	c.state = state
	return sorted(state), nil
}

func (c *Cache) keeps(ref wire.Ref) bool { return c.PrivateKeys || ref.Kind != wire.KindCertificate }

func sorted(state map[wire.Ref]wire.Resource) []wire.Resource {
	return slices.SortedFunc(maps.Values(state), func(a, b wire.Resource) int { return compareRefs(a.Ref, b.Ref) })
}

// record saves an applied delta.
func (c *Cache) record(d wire.Delta) error {
	d = c.filter(d)
	if len(d.Upserted) == 0 && len(d.Removed) == 0 {
		return nil
	}
	if c.state == nil {
		c.state = map[wire.Ref]wire.Resource{}
	}
	for _, ref := range d.Removed {
		delete(c.state, ref)
	}
	for _, r := range d.Upserted {
		c.state[r.Ref] = r
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
		if _, ok := c.state[ref]; ok {
			kept.Removed = append(kept.Removed, ref)
		}
	}
	return kept
}

func (c *Cache) append(d wire.Delta) error {
	line, err := encodeRecord(d)
	if err != nil {
		return err
	}
	if c.file == nil || c.size+int64(len(line)) > max(2*c.base, minCompaction) {
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
	data, err := encodeCache(sorted(c.state))
	if err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return err
	}
	// A container that restarts finds what was written; after the loss of power the checksums tell what
	// is worth, so nothing waits for the disk.
	if err := os.Rename(temporary, c.Path); err != nil {
		return err
	}
	c.size, c.base = int64(len(data)), int64(len(data))
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

func encodeCache(resources []wire.Resource) ([]byte, error) {
	header, err := json.Marshal(cacheHeader{Format: cacheFormat, Schema: cacheSchema})
	if err != nil {
		return nil, err
	}
	state, err := encodeRecord(wire.Delta{Upserted: resources})
	if err != nil {
		return nil, err
	}
	return slices.Concat(header, []byte("\n"), state), nil
}

// encodeRecord returns one line: the checksum in eight hexadecimal digits, a space, the delta in JSON.
func encodeRecord(d wire.Delta) ([]byte, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(data, checksum), data), nil
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
	sum, data, ok := bytes.Cut(line, []byte(" "))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !ok || len(sum) != 8 || err != nil {
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
