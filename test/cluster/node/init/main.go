// Command init is the first process of a local cluster node. Without arguments it reads the node's
// description from standard input and enters the node; there it runs again, with "supervise".
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"weft.dev/weft/test/cluster/node"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	if len(os.Args) == 1 {
		spec, err := decode(os.Stdin)
		if err != nil {
			return err
		}
		return node.Enter(spec, []string{"init", "supervise"})
	}
	file, err := os.Open(node.SpecFile)
	if err != nil {
		return fmt.Errorf("open the node's description: %w", err)
	}
	defer file.Close() //nolint:errcheck // nothing was written
	spec, err := decode(file)
	if err != nil {
		return err
	}
	return node.Supervise(spec.Units, node.LogDir)
}

func decode(r io.Reader) (node.Spec, error) {
	var spec node.Spec
	if err := json.NewDecoder(r).Decode(&spec); err != nil {
		return node.Spec{}, fmt.Errorf("read the node's description: %w", err)
	}
	return spec, nil
}
