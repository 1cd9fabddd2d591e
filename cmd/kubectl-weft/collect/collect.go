// Package collect gathers what somebody who helps needs to know about a mesh into one archive: what is declared, what
// the operator says of it, what proxies have, count and log. It only reads, and leaves out what may be secret: it never
// asks for a Secret, and takes secrets out of everything else.
package collect

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// Source is what is asked.
type Source struct {
	Reader client.Reader
	// Way leads to proxies.
	Way proxies.Way
	// Logs returns the end of a container's log, or of the one before it.
	Logs func(ctx context.Context, pod types.NamespacedName, container string, previous bool) (io.ReadCloser, error)
	// System is the namespace in which Weft runs.
	System string
	// Since is how old an event may be.
	Since time.Time
	// Texts are further files by name, such as what commands say. They are scrubbed like everything else.
	Texts map[string]string
}

// Summary is what an archive holds.
type Summary struct {
	Files int `json:"files"`
	// Missing says what could not be read, and why.
	Missing []string `json:"missing"`
}

// maxLog bounds a log, maxFile whatever a proxy says, in bytes.
const (
	maxLog  = 4 << 20
	maxFile = 64 << 20
)

// Write writes a tar.gz with one directory. What cannot be read is named in the summary, and in the file missing.txt;
// the error is one of writing, or of ctx.
func Write(ctx context.Context, w io.Writer, directory string, now time.Time, s Source) (Summary, error) {
	zipped := gzip.NewWriter(w)
	a := &archive{tar: tar.NewWriter(zipped), directory: directory, now: now, summary: Summary{Missing: []string{}}}
	for _, name := range slices.Sorted(maps.Keys(s.Texts)) {
		a.add(name, []byte(scrub(s.Texts[name])))
	}
	a.objects(ctx, s)
	a.events(ctx, s)
	pods := a.pods(ctx, s)
	for _, pod := range pods {
		if len(proxies.Of([]*corev1.Pod{pod}, "")) > 0 {
			a.proxy(ctx, s, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
		}
		a.logs(ctx, s, pod)
	}
	if ctx.Err() != nil {
		return a.summary, ctx.Err()
	}
	a.add("missing.txt", []byte(strings.Join(append(slices.Clone(a.summary.Missing), ""), "\n")))
	return a.summary, errors.Join(a.err, a.tar.Close(), zipped.Close())
}

// archive is one that is being written. After an error of writing it does nothing.
type archive struct {
	tar       *tar.Writer
	directory string
	now       time.Time
	summary   Summary
	err       error
}

// add writes a file. Its content has been redacted.
func (a *archive) add(name string, content []byte) {
	if a.err != nil {
		return
	}
	header := &tar.Header{Name: path.Join(a.directory, name), Mode: 0o600, Size: int64(len(content)), ModTime: a.now, Format: tar.FormatPAX}
	if a.err = a.tar.WriteHeader(header); a.err == nil {
		_, a.err = a.tar.Write(content)
	}
	a.summary.Files++
}

// miss notes what could not be read.
func (a *archive) miss(what string, err error) {
	a.summary.Missing = append(a.summary.Missing, what+": "+strings.Join(strings.Fields(err.Error()), " "))
}

// proxy adds what a proxy has and counts.
func (a *archive) proxy(ctx context.Context, s Source, pod types.NamespacedName) {
	folder := path.Join("proxies", pod.Namespace, pod.Name)
	// Private keys stay with the proxy; what routes set and match may be secret as well.
	state, err := proxies.State(ctx, s.Way, pod, true)
	if err == nil {
		var content any
		var data []byte
		if data, err = json.Marshal(state); err == nil {
			err = json.Unmarshal(data, &content)
		}
		if err == nil {
			redactValue(content)
			data, err = json.MarshalIndent(content, "", "  ")
			a.add(path.Join(folder, "config.json"), data)
		}
	}
	if err != nil {
		a.miss(path.Join(folder, "config.json"), err)
	}
	body, err := s.Way.Get(ctx, pod, wire.PortMetrics, "/metrics")
	if err != nil {
		a.miss(path.Join(folder, "metrics.txt"), err)
		return
	}
	data, err := io.ReadAll(io.LimitReader(body, maxFile))
	_ = body.Close() // it has been read
	if err != nil {
		a.miss(path.Join(folder, "metrics.txt"), err)
		return
	}
	a.add(path.Join(folder, "metrics.txt"), []byte(scrub(string(data))))
}

// logs adds those of a pod of Weft's own, or of the proxy beside another.
func (a *archive) logs(ctx context.Context, s Source, pod *corev1.Pod) {
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	containers, statuses := pod.Spec.Containers, pod.Status.ContainerStatuses
	if compile.HasSidecar(pod) {
		containers, statuses = []corev1.Container{{Name: compile.SidecarContainer}}, pod.Status.InitContainerStatuses
	}
	for _, c := range containers {
		restarted := slices.ContainsFunc(statuses, func(status corev1.ContainerStatus) bool {
			return status.Name == c.Name && status.RestartCount > 0
		})
		for _, previous := range []bool{false, true} {
			if previous && !restarted {
				continue
			}
			file := path.Join("logs", pod.Namespace, pod.Name, c.Name+".log")
			if previous {
				file = path.Join("logs", pod.Namespace, pod.Name, c.Name+".previous.log")
			}
			text, err := a.log(ctx, s, name, c.Name, previous)
			if err != nil {
				a.miss(file, err)
				continue
			}
			a.add(file, text)
		}
	}
}

func (a *archive) log(ctx context.Context, s Source, pod types.NamespacedName, container string, previous bool) ([]byte, error) {
	body, err := s.Logs(ctx, pod, container, previous)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(io.LimitReader(body, maxLog))
	if err != nil {
		return nil, err
	}
	// A key has several lines, so they are looked at together first.
	var out bytes.Buffer
	lines := bufio.NewScanner(strings.NewReader(scrub(string(data))))
	lines.Buffer(nil, maxLog)
	for lines.Scan() {
		fmt.Fprintln(&out, scrubLog(lines.Text()))
	}
	return out.Bytes(), lines.Err()
}
