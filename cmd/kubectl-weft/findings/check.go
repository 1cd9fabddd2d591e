package findings

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

// Facts are what Check judges, read at one moment.
type Facts struct {
	Now time.Time
	// Build is the version of this command.
	Build string
	// Kubernetes is the API server's version.
	Kubernetes string
	// CRDs maps the names of those that Weft needs to their Gateway API bundle, empty for Weft's own. Those that
	// are missing are not in it.
	CRDs map[string]string
	// Denied are rights to install that the user does not have, as "create clusterroles".
	Denied   []string
	Nodes    []*corev1.Node
	Network  mesh.Network
	Operator *appsv1.Deployment
	Agents   *appsv1.DaemonSet
	Webhook  *admissionv1.ValidatingWebhookConfiguration
	Mesh     *meshv1alpha1.Mesh
	// Proxies are the Deployments of all namespaces.
	Proxies []appsv1.Deployment
}

// State is the outcome of a check.
type State string

// The states.
const (
	Passed State = "passed"
	Warned State = "warned"
	Failed State = "failed"
)

// Checked is one check and its outcome.
type Checked struct {
	// Code is what a failure of the check is called.
	Code  Code   `json:"code"`
	State State  `json:"state"`
	Says  string `json:"says"`
	Link  string `json:"link,omitempty"`
}

// NeededCRDs are the names of the CustomResourceDefinitions that Weft needs, true for its own.
var NeededCRDs = map[string]bool{
	"httproutes.gateway.networking.k8s.io": false,
	"grpcroutes.gateway.networking.k8s.io": false,
	"meshes.mesh.weft.dev":                 true,
	"meshpolicies.mesh.weft.dev":           true,
	"meshauthorizations.mesh.weft.dev":     true,
}

// leastKubernetes is where match conditions of webhooks became stable, testedGatewayAPI what the tests run with.
const (
	leastKubernetes  = "1.30.0"
	testedGatewayAPI = "1.7.0"
)

// CheckBefore tells whether a cluster can run Weft. CheckAfter tells whether it does; it includes what can
// change after an installation.
func CheckBefore(f Facts) []Checked {
	c := &checks{facts: f}
	c.kubernetes()
	c.gatewayAPI()
	c.nodes()
	c.network()
	c.rights()
	return c.done
}

// CheckAfter is described at CheckBefore.
func CheckAfter(f Facts) []Checked {
	c := &checks{facts: f}
	c.kubernetes()
	c.gatewayAPI()
	c.network()
	if !c.installed() {
		return c.done
	}
	c.operator()
	c.agents()
	c.admission()
	c.mesh()
	c.proxies()
	c.versions()
	return c.done
}

type checks struct {
	facts Facts
	done  []Checked
}

func (c *checks) pass(code Code, format string, args ...any) {
	c.done = append(c.done, Checked{Code: code, State: Passed, Says: fmt.Sprintf(format, args...)})
}

// fail adds a check that has failed, or that warns if that is what the code is.
func (c *checks) fail(code Code, format string, args ...any) {
	state := Failed
	if code.Entry().Severity != Error {
		state = Warned
	}
	text := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	c.done = append(c.done, Checked{Code: code, State: state, Says: text, Link: code.Link()})
}

// older tells whether a version is older than another. One that cannot be read is not.
func older(v, than string) bool {
	parsed, err := version.ParseGeneric(v)
	return err == nil && parsed.LessThan(version.MustParseGeneric(than))
}

func (c *checks) kubernetes() {
	if older(c.facts.Kubernetes, leastKubernetes) {
		c.fail(OldKubernetes, "Kubernetes %s is older than %s", c.facts.Kubernetes, leastKubernetes)
		return
	}
	c.pass(OldKubernetes, "Kubernetes %s", c.facts.Kubernetes)
}

func (c *checks) missing(own bool) []string {
	var names []string
	for name, ours := range NeededCRDs {
		if _, found := c.facts.CRDs[name]; !found && ours == own {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *checks) gatewayAPI() {
	if missing := c.missing(false); len(missing) > 0 {
		c.fail(NoGatewayAPI, "missing %s", strings.Join(missing, ", "))
		return
	}
	bundle := c.facts.CRDs["httproutes.gateway.networking.k8s.io"]
	if older(bundle, testedGatewayAPI) {
		c.fail(OldGatewayAPI, "Gateway API %s is older than v%s", bundle, testedGatewayAPI)
		return
	}
	c.pass(NoGatewayAPI, "Gateway API %s", bundle)
}

func (c *checks) nodes() {
	var without []string
	linux := 0
	for _, n := range c.facts.Nodes {
		if n.Status.NodeInfo.OperatingSystem != "" && n.Status.NodeInfo.OperatingSystem != "linux" {
			continue
		}
		linux++
		if runtime := n.Status.NodeInfo.ContainerRuntimeVersion; !hasNRI(runtime) {
			without = append(without, n.Name+" ("+runtime+")")
		}
	}
	if linux == 0 {
		c.fail(NoNodes, "no node runs Linux")
		return
	}
	if len(without) > 0 {
		c.fail(NoNRI, "no NRI on %s", strings.Join(without, ", "))
		return
	}
	c.pass(NoNRI, "%s with NRI", count(linux, "node"))
}

// hasNRI tells whether a runtime has NRI on: containerd from 2.0, CRI-O from 1.26.
func hasNRI(runtime string) bool {
	name, v, _ := strings.Cut(runtime, "://")
	switch name {
	case "containerd":
		return !older(v, "2.0.0")
	case "cri-o":
		return !older(v, "1.26.0")
	default:
		return name == ""
	}
}

func (c *checks) network() {
	switch n := c.facts.Network; {
	case n.SocketLB:
		c.fail(SocketLB, "Cilium's kube-proxy replacement works at the sockets of pods")
	case n.Plugin != "":
		c.pass(SocketLB, "network plugin %s", n.Plugin)
	}
}

func (c *checks) rights() {
	if len(c.facts.Denied) > 0 {
		c.fail(MayNotInstall, "you may not %s", strings.Join(c.facts.Denied, ", "))
		return
	}
	c.pass(MayNotInstall, "you may install Weft")
}

func (c *checks) installed() bool {
	if missing := c.missing(true); len(missing) > 0 {
		c.fail(NotInstalled, "missing %s", strings.Join(missing, ", "))
		return false
	}
	c.pass(NotInstalled, "Weft's kinds are installed")
	return true
}

func (c *checks) operator() {
	switch d := c.facts.Operator; {
	case d == nil:
		c.fail(OperatorNotReady, "Deployment weft-operator does not exist")
	case d.Status.AvailableReplicas == 0:
		c.fail(OperatorNotReady, "none of %s of Deployment %s/%s is available", count(int(wanted(d.Spec.Replicas)), "pod"), d.Namespace, d.Name)
	default:
		c.pass(OperatorNotReady, "operator ready, %d of %d", d.Status.AvailableReplicas, wanted(d.Spec.Replicas))
	}
}

func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

func (c *checks) agents() {
	switch d := c.facts.Agents; {
	case d == nil:
		c.fail(AgentsNotReady, "DaemonSet weft-node does not exist")
	case d.Status.NumberReady < d.Status.DesiredNumberScheduled || d.Status.DesiredNumberScheduled == 0:
		c.fail(AgentsNotReady, "%d of %d node agents are ready", d.Status.NumberReady, d.Status.DesiredNumberScheduled)
	default:
		c.pass(AgentsNotReady, "node agents ready, %d of %d", d.Status.NumberReady, d.Status.DesiredNumberScheduled)
	}
}

func (c *checks) admission() {
	if c.facts.Webhook == nil {
		c.fail(NoAdmission, "ValidatingWebhookConfiguration weft-webhook does not exist")
		return
	}
	for i := range c.facts.Webhook.Webhooks {
		w := &c.facts.Webhook.Webhooks[i]
		if why := badBundle(w.ClientConfig.CABundle, c.facts.Now); why != "" {
			c.fail(NoAdmission, "%s: %s", w.Name, why)
			return
		}
	}
	c.pass(NoAdmission, "admission webhook configured")
}

// badBundle says what is wrong with the roots that the API server trusts.
func badBundle(bundle []byte, now time.Time) string {
	if len(bundle) == 0 {
		return "caBundle is empty"
	}
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return "no root in caBundle is valid now"
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && now.After(cert.NotBefore) && now.Before(cert.NotAfter) {
			return ""
		}
	}
}

func (c *checks) mesh() {
	m := c.facts.Mesh
	if m == nil {
		c.fail(MeshNotReady, "there is no Mesh named %s", meshv1alpha1.MeshName)
		return
	}
	for _, expected := range []struct {
		condition string
		code      Code
		ok        string
	}{
		{meshv1alpha1.MeshReady, MeshNotReady, "Mesh ready"},
		{meshv1alpha1.MeshCaptured, NotCaptured, "capture proven on " + m.Status.Captured + " nodes"},
		{meshv1alpha1.MeshProxiesReady, NoProxyReady, "every enrolled namespace has a ready proxy"},
		{meshv1alpha1.MeshDefaultsAccepted, DefaultsNotInUse, "defaults of the Mesh in force"},
		{meshv1alpha1.MeshCertificatesValid, Certificates, "certificates valid" + nextEnd(m, c.facts.Now)},
	} {
		switch found := meta.FindStatusCondition(m.Status.Conditions, expected.condition); {
		case found == nil:
			c.fail(expected.code, "the Mesh has no condition %s", expected.condition)
		case found.Status != metav1.ConditionTrue:
			c.fail(expected.code, "%s: %s", found.Reason, found.Message)
		default:
			c.pass(expected.code, "%s", expected.ok)
		}
	}
	if t := meta.FindStatusCondition(m.Status.Conditions, meshv1alpha1.MeshTelemetryAccepted); t != nil && t.Status != metav1.ConditionTrue {
		c.fail(DefaultsNotInUse, "%s: %s", t.Reason, t.Message)
	}
	c.pods(m)
}

// nextEnd says when the first of root and intermediate ends.
func nextEnd(m *meshv1alpha1.Mesh, now time.Time) string {
	var first time.Time
	for _, list := range [][]meshv1alpha1.AuthorityCertificate{m.Status.CertificateAuthority.Roots, m.Status.CertificateAuthority.Intermediates} {
		for _, cert := range list {
			if cert.NotAfter != nil && (first.IsZero() || cert.NotAfter.Time.Before(first)) {
				first = cert.NotAfter.Time
			}
		}
	}
	if first.IsZero() {
		return ""
	}
	return ", root and intermediate for " + count(int(first.Sub(now).Hours()/24), "day")
}

func (c *checks) pods(m *meshv1alpha1.Mesh) {
	var outside []string
	for i := range m.Status.Nodes {
		n := &m.Status.Nodes[i]
		if n.UncapturedPods != nil && *n.UncapturedPods > 0 {
			outside = append(outside, fmt.Sprintf("%s on %s", count(int(*n.UncapturedPods), "pod"), n.Name))
		}
	}
	if len(outside) > 0 {
		c.fail(PodsNotCaptured, "not captured: %s", strings.Join(outside, ", "))
		return
	}
	c.pass(PodsNotCaptured, "every pod of enrolled namespaces captured")
}

func (c *checks) proxies() {
	for i := range c.facts.Proxies {
		d := &c.facts.Proxies[i]
		if d.Status.AvailableReplicas < wanted(d.Spec.Replicas) && d.Status.AvailableReplicas > 0 {
			c.done = append(c.done, Checked{
				Code: NoProxyReady, State: Warned, Link: NoProxyReady.Link(),
				Says: fmt.Sprintf("%d of %d proxies of namespace %s are available", d.Status.AvailableReplicas, wanted(d.Spec.Replicas), d.Namespace),
			})
		}
	}
}

// versions compares the tags of images.
func (c *checks) versions() {
	found := map[string][]string{}
	note := func(what string, containers []corev1.Container) {
		for _, container := range containers {
			tag := tagOf(container.Image)
			if tag != "" && !slices.Contains(found[tag], what) {
				found[tag] = append(found[tag], what)
			}
		}
	}
	if c.facts.Operator != nil {
		note("operator", c.facts.Operator.Spec.Template.Spec.Containers)
	}
	if c.facts.Agents != nil {
		note("node agents", c.facts.Agents.Spec.Template.Spec.Containers)
	}
	for i := range c.facts.Proxies {
		note("proxies of "+c.facts.Proxies[i].Namespace, c.facts.Proxies[i].Spec.Template.Spec.Containers)
	}
	if len(found) == 0 {
		return
	}
	found[c.facts.Build] = append(found[c.facts.Build], "this command")
	if len(found) == 1 {
		c.pass(VersionsDiffer, "version %s everywhere", c.facts.Build)
		return
	}
	var texts []string
	for tag, who := range found {
		texts = append(texts, tag+": "+strings.Join(who, ", "))
	}
	slices.Sort(texts)
	c.fail(VersionsDiffer, "%s", strings.Join(texts, "; "))
}

// tagOf returns the tag of an image, empty for one named by its digest alone.
func tagOf(image string) string {
	name, _, _ := strings.Cut(image, "@")
	_, last, found := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	if !found {
		return ""
	}
	return last
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
