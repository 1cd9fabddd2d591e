// Package archive unpacks archives for tests, in memory.
package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
)

// File is a file of an archive.
type File struct {
	Content string
	Mode    int64
}

// Unpack returns the files of a tar.gz by their names.
func Unpack(t testing.TB, data []byte) map[string]File {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("unpack: %v", err)
	}
	files := map[string]File{}
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatalf("unpack: %v", err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatalf("unpack %s: %v", header.Name, err)
		}
		files[header.Name] = File{Content: string(content), Mode: header.Mode}
	}
}

// UnpackDirectory returns what the files of a tar.gz hold, by their names within the one directory that they are in.
func UnpackDirectory(t testing.TB, data []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for path, file := range Unpack(t, data) {
		_, name, _ := strings.Cut(path, "/")
		files[name] = file.Content
	}
	return files
}
