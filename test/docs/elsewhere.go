package docs

import "strings"

// Elsewhere are the blocks of commands that pages are not played with, by page and first line, and who runs what they
// show instead, or why nobody can.
var Elsewhere = map[string]string{
	"README.md: make try    # no root, no cluster: compile core and proxy in one process on loopback":                                  "phases of .ci/run, and TestNewcomer runs the demo",
	"docs/quickstart.md: make docker-build docker-push IMAGE_PREFIX=registry.example.com/weft/ VERSION=v0.1.0":                         "needs a container engine and a registry; make images has the same binaries on the local cluster",
	"docs/install.md: make catalog BUNDLE_RELEASED=1 \\":                                                                               "needs images in a registry; make verify makes the same catalog of local ones",
	"docs/performance.md: make bench-proxy                              # all of it, about half an hour":                               "takes half an hour",
	"docs/performance.md: make bench-control                 # 100, 1,000, 5,000 and 10,000 routes: most of an hour on a busy machine": "takes most of an hour",
	"docs/security.md: go run golang.org/x/vuln/cmd/govulncheck@latest -test ./...":                                                    "asks vuln.go.dev",
	"docs/threat-model.md: go run golang.org/x/vuln/cmd/govulncheck@latest ./...":                                                      "asks vuln.go.dev",
	"test/cluster/README.md: go run ./test/cluster up        # about 15 s once built; does nothing when it is up and healthy":          "make e2e begins with up, and .ci/run ends with down",
}

// OwnTests are the pages for a cluster that are played by a test of their own, because they take the mesh away, or do
// not end by themselves. test/e2e plays all others.
var OwnTests = map[string]string{
	"docs/first-failure.md": "test/e2e TestNewcomer",
	"docs/cli.md":           "test/e2e TestReferenceOfCommands",
	"docs/install.md":       "test/e2e/lifecycle TestInstallPage",
}

// Place is where a block of commands is named in Elsewhere.
func Place(b *Block) string {
	first, _, _ := strings.Cut(b.Text, "\n")
	return b.Page + ": " + first
}
