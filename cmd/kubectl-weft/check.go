package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/findings"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

func (a *app) checkCommand() *cobra.Command {
	var before bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check whether a cluster can run Weft, and whether it does",
		Example: `  kubectl weft check --pre     # before an installation
  kubectl weft check           # after one`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := a.withTimeout(cmd)
			defer cancel()
			facts, err := a.facts(ctx, c)
			if err != nil {
				return err
			}
			checked := findings.CheckAfter
			if before {
				checked = findings.CheckBefore
				if facts.Denied, err = denied(ctx, c.writer); err != nil {
					return err
				}
			}
			return a.showChecks(checked(facts))
		},
	}
	cmd.Flags().BoolVar(&before, "pre", false, "check what Weft needs before it is installed")
	a.withOutput(cmd.Flags())
	return cmd
}

func (a *app) showChecks(all []findings.Checked) error {
	marks := map[findings.State]string{
		findings.Passed: a.paint(green, "ok"), findings.Warned: a.paint(yellow, "warning"), findings.Failed: a.paint(red, "failed"),
	}
	err := a.print(all, func(w io.Writer) error {
		failed, warned := 0, 0
		for _, c := range all {
			fmt.Fprintf(w, "%s: %s\n", marks[c.State], c.Says)
			if c.State != findings.Passed {
				fmt.Fprintf(w, "    %s %s; %s\n    %s\n", c.Code, c.Code.Entry().Title, c.Code.Entry().Remedy, c.Link)
			}
			switch c.State {
			case findings.Failed:
				failed++
			case findings.Warned:
				warned++
			case findings.Passed:
			}
		}
		_, err := fmt.Fprintf(w, "\n%s: %d failed, %s\n", plural(len(all), "check"), failed, plural(warned, "warning"))
		return err
	})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(c findings.Checked) bool { return c.State == findings.Failed }) {
		return errNo
	}
	return nil
}

// facts reads what checks judge. What does not exist stays empty.
func (a *app) facts(ctx context.Context, c *connection) (findings.Facts, error) {
	f := findings.Facts{Now: a.now(), Build: wire.Build, CRDs: map[string]string{}}
	var err error
	if f.Kubernetes, err = c.version(); err != nil {
		return f, err
	}
	for name := range findings.NeededCRDs {
		crd := &metav1.PartialObjectMetadata{}
		crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
		err := c.reader.Get(ctx, types.NamespacedName{Name: name}, crd)
		if err == nil {
			f.CRDs[name] = crd.Annotations[bundleVersion]
		} else if !apierrors.IsNotFound(err) {
			return f, fmt.Errorf("look for %s: %w", name, err)
		}
	}
	if f.Nodes, err = cluster.Nodes(ctx, c.reader); err != nil {
		return f, err
	}
	if f.Network, err = mesh.ReadNetwork(ctx, c.reader); err != nil {
		return f, err
	}
	if f.Operator, err = get(ctx, c.reader, a.system, operatorName, &appsv1.Deployment{}); err != nil {
		return f, err
	}
	if f.Agents, err = get(ctx, c.reader, a.system, agentsName, &appsv1.DaemonSet{}); err != nil {
		return f, err
	}
	if f.Webhook, err = get(ctx, c.reader, "", webhookName, &admissionv1.ValidatingWebhookConfiguration{}); err != nil {
		return f, err
	}
	var proxies appsv1.DeploymentList
	if err := c.reader.List(ctx, &proxies, client.MatchingLabels{meshv1alpha1.ComponentLabel: compile.ComponentProxy}); err != nil {
		return f, fmt.Errorf("list proxies: %w", err)
	}
	f.Proxies = proxies.Items
	if _, installed := f.CRDs["meshes.mesh.weft.dev"]; installed {
		if f.Mesh, err = cluster.Mesh(ctx, c.reader); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Names of what an installation consists of, and the annotation by which the Gateway API marks its kinds.
const (
	operatorName  = "weft-operator"
	agentsName    = "weft-node"
	webhookName   = "weft-webhook"
	bundleVersion = "gateway.networking.k8s.io/bundle-version"
)

// get returns an object, or nil if it does not exist.
func get[T client.Object](ctx context.Context, r client.Reader, namespace, name string, into T) (T, error) {
	var none T
	err := r.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("get %s: %w", name, err)
	}
	return into, nil
}

// denied asks for the rights that an installation needs.
func denied(ctx context.Context, c client.Client) ([]string, error) {
	var denied []string
	for _, right := range []struct{ group, resource string }{
		{"apiextensions.k8s.io", "customresourcedefinitions"},
		{"rbac.authorization.k8s.io", "clusterroles"},
		{"rbac.authorization.k8s.io", "clusterrolebindings"},
		{"admissionregistration.k8s.io", "validatingwebhookconfigurations"},
		{"", "namespaces"},
	} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "create", Group: right.group, Resource: right.resource},
		}}
		if err := c.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("ask for your rights: %w", err)
		}
		if !review.Status.Allowed {
			denied = append(denied, "create "+right.resource)
		}
	}
	return denied, nil
}
