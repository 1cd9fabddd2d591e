package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/cmd/kubectl-weft/collect"
	"weft.dev/weft/proxy/wire"
)

func (a *app) debugCommand() *cobra.Command {
	return group("debug", "Gather what helps to find a fault", a.bundleCommand())
}

func (a *app) bundleCommand() *cobra.Command {
	var file string
	since := 24 * time.Hour
	cmd := &cobra.Command{
		Use: "bundle", Short: "Write an archive for whoever helps you, without secrets",
		Long: `Write a tar.gz with what somebody who helps needs to know: what check, status, analyze and proxy status say, what is
declared and its statuses, the configuration and metrics of every proxy, and the events and logs of Weft itself.

Secrets are not asked for. Left out of everything else are values of environment variables, of headers, parameters and
expressions whose names sound like secrets, annotations of others, private keys, tokens and passwords; queries and headers of requests
are never in a log. Look through it all the same before you give it away: it tells names, addresses and paths.

You get what you may read; missing.txt in the archive names the rest. --timeout bounds all of it.`,
		Example: `  kubectl weft debug bundle
  kubectl weft debug bundle --file - | tar tz`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			// Whoever has the wrong cluster or no rights at all gets no empty archive.
			if _, err := theMesh(ctx, c.reader); err != nil {
				return err
			}
			way, err := c.way()
			if err != nil {
				return err
			}
			directory := "weft-debug-" + a.now().UTC().Format("20060102-150405")
			if file == "" {
				file = directory + ".tar.gz"
			}
			var out bytes.Buffer
			summary, err := collect.Write(ctx, &out, directory, a.now(), collect.Source{
				Reader: c.reader, Way: way, Logs: c.logs, System: a.system, Since: a.now().Add(-since), Texts: a.texts(ctx),
			})
			if err != nil {
				return err
			}
			if file == "-" {
				_, err := io.Copy(a.out, &out)
				return err
			}
			if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
				return err
			}
			return a.showBundle(file, summary)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "file", "", "where to write it, - for standard output; default: weft-debug-TIME.tar.gz")
	f.DurationVar(&since, "since", since, "how old events may be")
	a.withOutput(f)
	return cmd
}

// bundled is what debug bundle shows.
type bundled struct {
	File string `json:"file"`
	collect.Summary
}

func (a *app) showBundle(file string, s collect.Summary) error {
	return a.print(bundled{file, s}, func(w io.Writer) error {
		for _, text := range s.Missing {
			fmt.Fprintln(w, "not read: "+text)
		}
		_, err := fmt.Fprintf(w, "%s holds %s. Look through it before you give it away.\n", file, plural(s.Files, "file"))
		return err
	})
}

// texts are what other commands say.
func (a *app) texts(ctx context.Context) map[string]string {
	texts := map[string]string{"version.txt": wire.Build + "\n"}
	for name, command := range map[string]string{
		"check.txt": "check", "status.txt": "status", "analyze.txt": "analyze -o wide", "proxy-status.txt": "proxy status -o wide",
	} {
		var out bytes.Buffer
		other := &app{in: strings.NewReader(""), out: &out, errOut: &out, now: a.now, connect: a.connect}
		args := append(strings.Fields(command), "--system-namespace", a.system, "--timeout", a.timeout.String())
		if code := other.run(ctx, args); code != exitOK {
			fmt.Fprintf(&out, "(exit code %d)\n", code)
		}
		texts[name] = out.String()
	}
	return texts
}
