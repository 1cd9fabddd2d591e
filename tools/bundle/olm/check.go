package olm

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
)

// Finding is one rule that a bundle breaks.
type Finding struct {
	// Rule is a short name, Why says what breaks it.
	Rule, Why string
}

func (f Finding) String() string { return f.Rule + ": " + f.Why }

// findings collects what rules find, and which rules there are.
type findings struct {
	found []Finding
	asked map[string]bool
}

func newFindings() *findings { return &findings{asked: map[string]bool{}} }

func (f *findings) add(rule, format string, args ...any) {
	f.asked[rule] = true
	f.found = append(f.found, Finding{rule, fmt.Sprintf(format, args...)})
}

// need adds a finding when something does not hold.
func (f *findings) need(ok bool, rule, format string, args ...any) {
	f.asked[rule] = true
	if !ok {
		f.add(rule, format, args...)
	}
}

// Check judges a bundle by the rules that can be checked without a cluster: those of operator-framework/api
// (what its validators call errors and what they warn of), of the scorecard's images, and of the community's
// pipelines. released has images be named by digest, which they can be only after they were pushed.
func Check(b *Bundle, released bool) []Finding { return judge(b, released).found }

func judge(b *Bundle, released bool) *findings {
	f := newFindings()
	f.metadata(b)
	f.annotations(b.CSV.Metadata)
	f.words(&b.CSV.Spec)
	f.kinds(b)
	f.examples(b)
	f.install(b)
	f.images(b, released)
	f.webhooks(&b.CSV.Spec)
	f.manifests(b)
	f.size(b)
	return f
}

// channelPrefixes are those of names that are understood at once; see
// https://olm.operatorframework.io/docs/best-practices/channel-naming/
var channelPrefixes = []string{"candidate", "fast", "stable"}

// metadata judges metadata/annotations.yaml.
func (f *findings) metadata(b *Bundle) {
	const rule = "metadata"
	get := func(key string) string { return b.Annotations["operators.operatorframework.io."+key] }
	for key, want := range annotations() {
		switch key = strings.TrimPrefix(key, "operators.operatorframework.io."); key {
		case "bundle.package.v1", "bundle.channels.v1", "bundle.channel.default.v1", "metrics.builder", "metrics.project_layout":
			f.need(get(key) != "", rule, "%s is missing", key)
		default:
			f.need(get(key) == want, rule, "%s is %q, want %q", key, get(key), want)
		}
	}
	channels := strings.Split(get("bundle.channels.v1"), ",")
	for _, channel := range channels {
		f.need(slices.ContainsFunc(channelPrefixes, func(p string) bool { return strings.HasPrefix(channel, p) }),
			"channel names", "%q begins with none of %v", channel, channelPrefixes)
	}
	f.need(slices.Contains(channels, get("bundle.channel.default.v1")), "default channel", "%q is none of %v", get("bundle.channel.default.v1"), channels)

	name, ofVersion := b.CSV.Metadata.Name, b.CSV.Spec.Version
	f.need(name == get("bundle.package.v1")+".v"+ofVersion, "name", "the CSV is named %q, which is not the package, .v and %q", name, ofVersion)
	own, err := version.ParseSemantic(ofVersion)
	f.need(err == nil, "version", "%q is no semantic version", ofVersion)
	if replaces := b.CSV.Spec.Replaces; replaces != "" && err == nil {
		earlier, found := strings.CutPrefix(replaces, get("bundle.package.v1")+".v")
		before, err := version.ParseSemantic(earlier)
		f.need(found && err == nil && before.LessThan(own), "replaces", "%q is no earlier version of the package", replaces)
	}
	_, err = version.ParseSemantic(b.CSV.Spec.MinKubeVersion)
	f.need(err == nil, "minKubeVersion", "%q is no semantic version", b.CSV.Spec.MinKubeVersion)
	f.need(b.CSV.APIVersion == "operators.coreos.com/v1alpha1" && b.CSV.Kind == CSVKind, "csv kind", "%s %s", b.CSV.APIVersion, b.CSV.Kind)
}

// maxBundle is what fits into the ConfigMap that a bundle is unpacked into, and warnAt where validators warn.
const (
	maxBundle = 1 << 20
	warnAt    = maxBundle * 85 / 100
)

func (f *findings) size(b *Bundle) {
	files, err := b.Files()
	if err != nil {
		f.add("size", "%v", err)
		return
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for name, content := range files {
		if strings.HasPrefix(name, manifestsDir+"/") {
			// Writing to memory does not fail.
			_, _ = w.Write(content)
		}
	}
	_ = w.Close()
	f.need(packed.Len() <= warnAt, "size", "%d bytes compressed, more than %d of %d", packed.Len(), warnAt, maxBundle)
}
