package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/findings"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

// overview is a mesh on one screen.
type overview struct {
	Kubernetes  string            `json:"kubernetes"`
	TrustDomain string            `json:"trustDomain"`
	Conditions  []condition       `json:"conditions"`
	Components  []component       `json:"components"`
	Namespaces  []namespaceStatus `json:"namespaces"`
	Authority   []authorityEnd    `json:"authority"`
	Findings    string            `json:"findings"`
	// healthy tells that every condition that should be True is.
	healthy bool
}

// whileTrue are the conditions of a Mesh that are True while there is something to tell, and False otherwise. Neither says
// that the mesh is not well.
var whileTrue = []string{meshv1alpha1.MeshRootRotating, meshv1alpha1.MeshPlainCallers}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

type component struct {
	Name    string `json:"name"`
	Ready   int32  `json:"ready"`
	Wanted  int32  `json:"wanted"`
	Version string `json:"version"`
}

type namespaceStatus struct {
	Name     string `json:"name"`
	Proxies  int32  `json:"proxiesReady"`
	Wanted   int32  `json:"proxiesWanted"`
	Services int    `json:"services"`
	Routes   int    `json:"routes"`
	Policies int    `json:"policies"`
	Version  string `json:"version"`
}

type authorityEnd struct {
	What     string    `json:"what"`
	NotAfter time.Time `json:"notAfter"`
}

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show the state of the mesh on one screen", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			m, err := mesh.Cluster(ctx, c.reader, a.system)
			if err != nil {
				return err
			}
			facts, err := a.facts(ctx, c)
			if err != nil {
				return err
			}
			o := overviewOf(m, facts)
			if err := a.print(o, func(w io.Writer) error { return a.showOverview(w, o) }); err != nil {
				return err
			}
			if !o.healthy {
				return errNo
			}
			return nil
		},
	}
	a.withOutput(cmd.Flags())
	return cmd
}

func overviewOf(m *mesh.Mesh, f findings.Facts) overview {
	o := overview{
		Kubernetes: f.Kubernetes, Findings: findings.Counts(findings.Analyze(m)), healthy: f.Mesh != nil,
		Conditions: []condition{}, Components: []component{}, Namespaces: []namespaceStatus{}, Authority: []authorityEnd{},
	}
	if f.Operator != nil {
		o.Components = append(o.Components, deploymentOf("operator", f.Operator))
	}
	if f.Agents != nil {
		o.Components = append(o.Components, component{
			"node agents", f.Agents.Status.NumberReady, f.Agents.Status.DesiredNumberScheduled, imageOf(f.Agents.Spec.Template.Spec.Containers),
		})
	}
	if f.Mesh != nil {
		o.TrustDomain = f.Mesh.Spec.TrustDomain
		for _, c := range f.Mesh.Status.Conditions {
			if c.Type == meshv1alpha1.ConditionStalled || c.Type == meshv1alpha1.ConditionReconciling {
				continue // for other tools: another condition says the same
			}
			o.Conditions = append(o.Conditions, condition{c.Type, string(c.Status), c.Message})
			underWay := slices.Contains(whileTrue, c.Type) || c.Type == meshv1alpha1.MeshProxiesCurrent && c.Reason != meshv1alpha1.ReasonStuck
			o.healthy = o.healthy && (c.Status == metav1.ConditionTrue || underWay)
		}
		o.healthy = o.healthy && meta.IsStatusConditionTrue(f.Mesh.Status.Conditions, meshv1alpha1.MeshReady)
		o.Authority = ends(f.Mesh)
	}
	for _, name := range m.Compiled.Enrolled {
		o.Namespaces = append(o.Namespaces, namespaceOf(m, name, f.Proxies))
	}
	return o
}

func deploymentOf(name string, d *appsv1.Deployment) component {
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	return component{name, d.Status.AvailableReplicas, wanted, imageOf(d.Spec.Template.Spec.Containers)}
}

func imageOf(containers []corev1.Container) string {
	if len(containers) == 0 {
		return ""
	}
	return containers[0].Image
}

// ends tells until when root and intermediate live.
func ends(m *meshv1alpha1.Mesh) []authorityEnd {
	all := []authorityEnd{}
	for what, list := range map[string][]meshv1alpha1.AuthorityCertificate{
		"root": m.Status.CertificateAuthority.Roots, "intermediate": m.Status.CertificateAuthority.Intermediates,
	} {
		for _, cert := range list {
			if cert.NotAfter != nil {
				all = append(all, authorityEnd{what, cert.NotAfter.UTC()})
			}
		}
	}
	slices.SortFunc(all, func(x, y authorityEnd) int {
		return cmp.Or(x.NotAfter.Compare(y.NotAfter), cmp.Compare(x.What, y.What))
	})
	return all
}

func namespaceOf(m *mesh.Mesh, name string, proxies []appsv1.Deployment) namespaceStatus {
	n := namespaceStatus{Name: name}
	for i := range proxies {
		if proxies[i].Namespace == name {
			d := deploymentOf(name, &proxies[i])
			n.Proxies, n.Wanted, n.Version = d.Ready, d.Wanted, d.Version
		}
	}
	for _, svc := range m.Snapshot.Services {
		if svc.Namespace == name {
			n.Services++
		}
	}
	for i := range m.Compiled.Routes {
		if m.Compiled.Routes[i].Name.Namespace == name {
			n.Routes++
		}
	}
	for i := range m.Compiled.Policies {
		if m.Compiled.Policies[i].Name.Namespace == name {
			n.Policies++
		}
	}
	for i := range m.Compiled.Authorizations {
		if m.Compiled.Authorizations[i].Name.Namespace == name {
			n.Policies++
		}
	}
	return n
}

func (a *app) showOverview(w io.Writer, o overview) error {
	fmt.Fprintf(w, "Weft on Kubernetes %s, trust domain %s\n\n", o.Kubernetes, o.TrustDomain)
	var rows [][]string
	for _, c := range o.Components {
		rows = append(rows, []string{c.Name, a.ratio(c.Ready, c.Wanted), c.Version})
	}
	if err := table(w, []string{"COMPONENT", "READY", "IMAGE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, n := range o.Namespaces {
		rows = append(rows, []string{n.Name, a.ratio(n.Proxies, n.Wanted), strconv.Itoa(n.Services), strconv.Itoa(n.Routes), strconv.Itoa(n.Policies), n.Version})
	}
	if err := table(w, []string{"NAMESPACE", "PROXIES", "SERVICES", "ROUTES", "POLICIES", "IMAGE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, c := range o.Conditions {
		status := a.paint(green, c.Status)
		switch told := slices.Contains(whileTrue, c.Type); {
		case told && c.Status != "False":
			status = a.paint(yellow, c.Status)
		case !told && c.Status != "True":
			status = a.paint(red, c.Status)
		}
		rows = append(rows, []string{c.Type, status, line(c.Message)})
	}
	if err := table(w, []string{"CONDITION", "STATUS", "MESSAGE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, end := range o.Authority {
		fmt.Fprintf(w, "The %s ends %s, in %s\n", end.What, end.NotAfter.Format(time.DateTime), plural(int(end.NotAfter.Sub(a.now()).Hours()/24), "day"))
	}
	_, err := fmt.Fprintf(w, "Analysis: %s. See kubectl weft analyze\n", o.Findings)
	return err
}

func (a *app) ratio(ready, wanted int32) string {
	text := fmt.Sprintf("%d/%d", ready, wanted)
	if ready < wanted || wanted == 0 {
		return a.paint(red, text)
	}
	return text
}
