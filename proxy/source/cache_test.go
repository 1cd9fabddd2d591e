package source

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

func TestRestartWithoutOperatorKeepsTheLastConfiguration(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	path := filepath.Join(t.TempDir(), "config")
	one, two, bad := backend("one", 1), backend("two", 1), backend("bad", 666)
	secret := certificate("app", "the private key")

	o := newOperator(t, ca, serverName)
	first := newPeer(t, o, ca)
	first.Cache = &Cache{Path: path}
	first.unusable[bad.Version] = "no"
	first.start()
	s := o.accept()
	s.hello()
	s.send(wire.Delta{Seq: 1, Upserted: []wire.Resource{one, two, bad, secret}})
	s.send(wire.Delta{Seq: 2, Removed: []wire.Ref{two.Ref}})
	first.stop()

	second := newPeer(t, o, ca)
	second.Cache = &Cache{Path: path}
	second.start()
	s = o.accept()
	held := s.hello()
	deltas := second.received()
	if len(deltas) != 1 || deltas[0].Seq != 0 || second.Connected() {
		t.Errorf("before the operator speaks the deltas are %+v, want one of seq 0", deltas)
	}
	if diff := cmp.Diff(versions(one), second.held()); diff != "" {
		t.Errorf("state after the restart (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(versions(one), held); diff != "" {
		t.Errorf("Hello after the restart (-want +got):\n%s", diff)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("private key")) || !bytes.Contains(data, []byte(one.Key)) {
		t.Errorf("the file is\n%s\nwant the backend and no private key", data)
	}
}

func TestSavedResourceThatIsNoLongerUsableIsForgotten(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	path := filepath.Join(t.TempDir(), "config")
	good, bad := backend("good", 1), backend("bad", 1)
	record(t, &Cache{Path: path}, wire.Delta{Upserted: []wire.Resource{good, bad}})
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.Cache = &Cache{Path: path}
	p.unusable[bad.Version] = "this build cannot"
	p.start()
	if diff := cmp.Diff(versions(good), o.accept().hello()); diff != "" {
		t.Errorf("Hello (-want +got):\n%s", diff)
	}
	p.stop()
	if diff := cmp.Diff(versions(good), load(t, path)); diff != "" {
		t.Errorf("saved (-want +got):\n%s", diff)
	}
}

func TestPrivateKeysAreSavedOnlyOnRequest(t *testing.T) {
	secret := certificate("app", "the private key")
	for _, allowed := range []bool{false, true} {
		t.Run(strconv.FormatBool(allowed), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			record(t, &Cache{Path: path, PrivateKeys: allowed}, wire.Delta{Upserted: []wire.Resource{backend("one", 1), secret}})
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(data, []byte("private key")); got != allowed {
				t.Errorf("the file holds the private key: %v, want %v", got, allowed)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("the file's mode is %v, want 0600", info.Mode())
			}
			// What an earlier process was allowed to save is not read by one that is not.
			resources, err := (&Cache{Path: path}).Load()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(versions(backend("one", 1)), versions(resources...)); diff != "" {
				t.Errorf("loaded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDamagedFiles(t *testing.T) {
	one, two := backend("one", 1), backend("two", 1)
	path := filepath.Join(t.TempDir(), "config")
	c := &Cache{Path: path}
	record(t, c, wire.Delta{Upserted: []wire.Resource{one}})
	record(t, c, wire.Delta{Upserted: []wire.Resource{two}})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	flip := func(at int) []byte {
		data := bytes.Clone(whole)
		data[at] ^= 0x20
		return data
	}
	tests := map[string]struct {
		data    []byte
		want    map[wire.Ref]string
		wantErr string
	}{
		"whole":                    {data: whole, want: versions(one, two)},
		"last record cut off":      {data: whole[:len(whole)-1], want: versions(one)},
		"last record just begun":   {data: whole[:len(lines[0])+len(lines[1])+1], want: versions(one)},
		"state cut off":            {data: whole[:len(lines[0])+len(lines[1])-1], wantErr: "incomplete"},
		"only the header":          {data: lines[0], wantErr: "incomplete"},
		"header cut off":           {data: whole[:10], wantErr: "not a configuration file"},
		"empty":                    {data: nil, wantErr: "not a configuration file"},
		"something else":           {data: []byte("{}\n{}\n"), wantErr: "not a configuration file"},
		"bit flipped in state":     {data: flip(len(lines[0]) + 20), wantErr: "line 2: the checksum is wrong"},
		"bit flipped in record":    {data: flip(len(whole) - 20), wantErr: "line 3: the checksum is wrong"},
		"bit flipped in checksum":  {data: flip(len(lines[0])), wantErr: "line 2"},
		"record without checksum":  {data: append(bytes.Clone(whole), "nonsense\n"...), wantErr: "line 4: no checksum"},
		"schema of another future": {data: append([]byte(`{"format":"weft-config","schema":3}`+"\n"), lines[1]...), wantErr: "schema 3"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(path, tc.data, 0o600); err != nil {
				t.Fatal(err)
			}
			c := &Cache{Path: path}
			resources, err := c.Load()
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) || len(resources) != 0 {
					t.Errorf("loaded %d resources with error %v, want none and %q", len(resources), err, tc.wantErr)
				}
			} else if diff := cmp.Diff(tc.want, versions(resources...)); diff != "" || err != nil {
				t.Errorf("error %v, loaded (-want +got):\n%s", err, diff)
			}
			// Whatever was there, the next change makes a good file.
			three := backend("three", 1)
			record(t, c, wire.Delta{Upserted: []wire.Resource{three}})
			if got := load(t, path); got[three.Ref] != three.Version || len(got) != len(tc.want)+1 {
				t.Errorf("after the next change the file holds %v", got)
			}
		})
	}
}

func TestSavedStateFollowsAnySequenceOfDeltasInBoundedSpace(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "config")
	c := &Cache{Path: path}
	want := map[wire.Ref]string{}
	padding := strings.Repeat("x", 2000)
	for i := range 4000 {
		var d wire.Delta
		for range rng.IntN(3) {
			r := backend(fmt.Sprint("service-", rng.IntN(50), padding), uint16(rng.IntN(1000)))
			d.Upserted = append(d.Upserted, r)
		}
		for range rng.IntN(2) {
			ref := backend(fmt.Sprint("service-", rng.IntN(50), padding), 0).Ref
			d.Removed = append(d.Removed, ref)
			delete(want, ref)
		}
		for _, r := range d.Upserted {
			want[r.Ref] = r.Version
		}
		record(t, c, d)
		if i%500 == 499 {
			if diff := cmp.Diff(want, load(t, path)); diff != "" {
				t.Fatalf("after %d deltas (-want +got):\n%s", i+1, diff)
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > minCompaction {
		t.Errorf("the file has %d bytes, want at most %d", info.Size(), minCompaction)
	}
}

func TestSavingRecoversFromFailures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config")
	c := &Cache{Path: path}
	one, two, three := backend("one", 1), backend("two", 1), backend("three", 1)
	record(t, c, wire.Delta{Upserted: []wire.Resource{one}})

	// The file cannot be written any more, then not even be made.
	if err := c.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.record(wire.Delta{Upserted: []wire.Resource{two}}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("error %v without a file, want that it is closed", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.record(wire.Delta{Upserted: []wire.Resource{three}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v without a directory, want that there is none", err)
	}

	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	four := backend("four", 1)
	record(t, c, wire.Delta{Upserted: []wire.Resource{four}})
	if diff := cmp.Diff(versions(one, two, three, four), load(t, path)); diff != "" {
		t.Errorf("saved (-want +got):\n%s", diff)
	}
}

func TestMissingFileSaysSo(t *testing.T) {
	if _, err := (&Cache{Path: filepath.Join(t.TempDir(), "config")}).Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that there is no file", err)
	}
}

func record(t *testing.T, c *Cache, d wire.Delta) {
	t.Helper()
	if err := c.record(d); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, path string) map[wire.Ref]string {
	t.Helper()
	resources, err := (&Cache{Path: path}).Load()
	if err != nil {
		t.Fatal(err)
	}
	return versions(resources...)
}
