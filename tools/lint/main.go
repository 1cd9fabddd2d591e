// Command lint is golangci-lint with kube-api-linter compiled in. `golangci-lint custom` would build
// the same program, but clones the linter's repository to do so; a module of our own needs only the
// Go module proxy, and its go.sum pins what runs.
package main

import (
	"fmt"
	"os"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"
	_ "sigs.k8s.io/kube-api-linter" // registers the module plugin "kubeapilinter"
)

func main() {
	info := commands.BuildInfo{GoVersion: "unknown", Version: "v2.15.0", Commit: "unknown", Date: "unknown"}
	if err := commands.Execute(info); err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(exitcodes.Failure)
	}
}
