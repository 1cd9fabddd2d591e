package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/controllers/cluster"
)

// certificate is one line of certs.
type certificate struct {
	// What is root, intermediate or workload.
	What     string    `json:"what"`
	Identity string    `json:"identity"`
	NotAfter time.Time `json:"notAfter"`
	// Issuing tells of root and intermediate that what is issued now depends on them.
	Issuing bool `json:"issuing,omitempty"`
}

// workload is what the certificate of a ServiceAccount is.
const workload = "workload"

// certificates is what certs shows.
type certificates struct {
	Rotation     string        `json:"rotation"`
	Certificates []certificate `json:"certificates"`
	// Unreachable says which namespaces' proxies could not be asked.
	Unreachable []string `json:"unreachable,omitempty"`
}

func (a *app) certsCommand() *cobra.Command {
	var expiring string
	cmd := &cobra.Command{
		Use: "certs", Short: "Show the certificates of the mesh and when they end",
		Long: `Show root, intermediate and the certificates of ServiceAccounts, as the proxies of each enrolled namespace, or of that
of -n, hold them. Certificates of ServiceAccounts are renewed at half of their life.`,
		Example: `  kubectl weft certs --expiring
  kubectl weft certs --expiring=12h`,
		Args: func(cmd *cobra.Command, args []string) error {
			// A flag that can stand alone takes only values behind an equals sign; people write them with a space too.
			if len(args) == 1 && expiring == soon {
				expiring = args[0]
				return nil
			}
			return usage(cobra.NoArgs)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ends, err := within(expiring)
			if err != nil {
				return err
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			all, err := a.certificates(ctx)
			if err != nil {
				return err
			}
			all.Certificates = slices.DeleteFunc(all.Certificates, func(c certificate) bool { return !ends(c, a.now()) })
			return a.print(all, func(w io.Writer) error { return a.showCertificates(w, all) })
		},
	}
	cmd.Flags().StringVar(&expiring, "expiring", "", "only those that end within a time, such as 12h; alone: within 4h, and root and intermediate within 30 days, as the alerts have it")
	cmd.Flags().Lookup("expiring").NoOptDefVal = soon
	a.withOutput(cmd.Flags())
	cmd.AddCommand(a.rotateRootCommand())
	return cmd
}

// soon is --expiring without a time: what the alerts about certificates wait for.
const (
	soon          = "soon"
	soonWorkload  = 4 * time.Hour
	soonAuthority = 30 * 24 * time.Hour
)

// within returns what --expiring asks of a certificate.
func within(expiring string) (func(certificate, time.Time) bool, error) {
	switch expiring {
	case "":
		return func(certificate, time.Time) bool { return true }, nil
	case soon:
		return func(c certificate, now time.Time) bool {
			if c.What == workload {
				return !c.NotAfter.After(now.Add(soonWorkload))
			}
			return !c.NotAfter.After(now.Add(soonAuthority))
		}, nil
	}
	d, err := time.ParseDuration(expiring)
	if err != nil || d <= 0 {
		return nil, wrong("--expiring %q is no time such as 12h", expiring)
	}
	return func(c certificate, now time.Time) bool { return !c.NotAfter.After(now.Add(d)) }, nil
}

// theMesh returns the Mesh of a cluster.
func theMesh(ctx context.Context, r client.Reader) (*meshv1alpha1.Mesh, error) {
	m, err := cluster.Mesh(ctx, r)
	if err != nil {
		return nil, mesh.NotInstalled(err)
	}
	if m == nil {
		return nil, mesh.ErrNotInstalled
	}
	return m, nil
}

func (a *app) certificates(ctx context.Context) (certificates, error) {
	c, err := a.connect()
	if err != nil {
		return certificates{}, err
	}
	m, err := theMesh(ctx, c.reader)
	if err != nil {
		return certificates{}, err
	}
	all := certificates{Rotation: m.Status.CertificateAuthority.Rotation, Certificates: []certificate{}}
	for what, list := range map[string][]meshv1alpha1.AuthorityCertificate{
		"root": m.Status.CertificateAuthority.Roots, "intermediate": m.Status.CertificateAuthority.Intermediates,
	} {
		for _, cert := range list {
			one := certificate{What: what, Identity: shortFingerprint(cert.Fingerprint), Issuing: cert.Issuing != nil && *cert.Issuing}
			if cert.NotAfter != nil {
				one.NotAfter = cert.NotAfter.UTC()
			}
			all.Certificates = append(all.Certificates, one)
		}
	}
	pods, way, err := a.pods(ctx)
	if err != nil {
		return certificates{}, err
	}
	// One proxy of each namespace is enough: all have the same.
	firsts := slices.CompactFunc(proxies.Of(pods, a.namespace), func(x, y types.NamespacedName) bool { return x.Namespace == y.Namespace })
	held, failed := make([][]certificate, len(firsts)), make([]error, len(firsts))
	proxies.Each(firsts, func(i int, pod types.NamespacedName) {
		s, err := proxies.State(ctx, way, pod, true)
		failed[i] = err
		for _, r := range s.Resources {
			if r.Certificate != nil {
				held[i] = append(held[i], certificate{What: workload, Identity: r.Certificate.SPIFFEID, NotAfter: r.Certificate.NotAfter.UTC()})
			}
		}
	})
	if err := forbidden(failed); err != nil {
		return certificates{}, err
	}
	for i, err := range failed {
		if err != nil {
			all.Unreachable = append(all.Unreachable, firsts[i].Namespace+": "+line(err.Error()))
		}
	}
	all.Certificates = append(all.Certificates, slices.Concat(held...)...)
	slices.SortStableFunc(all.Certificates, func(x, y certificate) int {
		return cmp.Or(x.NotAfter.Compare(y.NotAfter), cmp.Compare(x.Identity, y.Identity))
	})
	return all, nil
}

func shortFingerprint(text string) string { return "sha256 " + text[:min(len(text), 16)] }

func (a *app) showCertificates(w io.Writer, all certificates) error {
	var rows [][]string
	for _, c := range all.Certificates {
		left := c.NotAfter.Sub(a.now())
		text := leftText(left)
		if left <= 0 {
			text = a.paint(red, text)
		}
		issuing := ""
		if c.Issuing {
			issuing = "issuing"
		}
		rows = append(rows, []string{c.What, c.Identity, c.NotAfter.Format(time.DateTime), text, issuing})
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "no certificate")
	} else if err := table(w, []string{"WHAT", "IDENTITY", "ENDS", "LEFT", ""}, rows); err != nil {
		return err
	}
	for _, text := range all.Unreachable {
		fmt.Fprintln(w, "not asked: "+text)
	}
	_, err := fmt.Fprintln(w, "Exchange of the root: "+all.Rotation)
	return err
}

// leftText writes how long something lives.
func leftText(left time.Duration) string {
	switch {
	case left <= 0:
		return "ended"
	case left >= 48*time.Hour:
		return plural(int(left.Hours()/24), "day")
	default:
		return left.Round(time.Minute).String()
	}
}

func (a *app) rotateRootCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rotate-root", Short: "Begin an exchange of the mesh's root, which the operator carries out",
		Long: `Begin an exchange of the mesh's root, which the operator carries out in three phases: it sets an annotation of the Mesh.
Nobody is locked out, and no request fails; docs/architecture.md says how. This changes the cluster.`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			m, err := theMesh(ctx, c.reader)
			if err != nil {
				return err
			}
			if phase := m.Status.CertificateAuthority.Rotation; phase != "" && phase != "Steady" {
				return &failure{exitNo, fmt.Errorf("an exchange is under way, in phase %s", phase), "wait for it: kubectl weft certs"}
			}
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
				meshv1alpha1.RotateRootAnnotation: strconv.FormatInt(a.now().Unix(), 10),
			}}})
			if err != nil {
				return err
			}
			err = c.writer.Patch(ctx, m, client.RawPatch(types.MergePatchType, patch))
			if apierrors.IsForbidden(err) {
				return &failure{exitForbidden, err, "ask for the ClusterRole weft-mesh-editor"}
			}
			if err != nil {
				return fmt.Errorf("annotate the Mesh: %w", err)
			}
			_, err = fmt.Fprintln(a.out, "The exchange has been asked for. It is over when kubectl weft certs says Steady again.")
			return err
		},
	}
}
