package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/test/demo/split"
)

// namespace is where examples/demo lives.
const namespace = "weft-demo"

// demo is one run.
type demo struct {
	kubectl  kubectl
	local    bool
	out      io.Writer
	terminal bool
	requests int
}

// step is one chapter of the story.
type step struct {
	title string
	// kind of the route that splits, and its weights.
	kind          string
	first, second int32
	// file, if set, is applied; else the weights are patched.
	file string
	// send are the arguments of the client, before its target.
	send   []string
	target string
	count  func(counts) int
}

var (
	overHTTP = step{kind: "HTTPRoute", target: "http://web/", count: func(c counts) int { return c.HTTP }}
	overGRPC = step{kind: "GRPCRoute", target: "web:9000", send: []string{"-grpc"}, count: func(c counts) int { return c.GRPC }}
)

func (s step) with(title string, first, second int32, file string) step {
	s.title, s.first, s.second, s.file = title, first, second, file
	return s
}

var steps = []step{
	overHTTP.with("a route sends one request of ten to the new version", 90, 10, "httproute.yaml"),
	overHTTP.with("half of them", 50, 50, ""),
	overHTTP.with("all of them: the old version can go", 0, 100, ""),
	overGRPC.with("the same for gRPC, with all calls on one connection", 90, 10, "grpcroute.yaml"),
}

// resource is what kubectl calls the kind.
func (s *step) resource() string { return strings.ToLower(s.kind) }

func (s *step) declared() split.Shares { return split.Declared(s.first, s.second) }

// run tells the story. dir holds the files, image is the application's.
func (d *demo) run(ctx context.Context, dir, image string) error {
	if err := d.setUp(ctx, dir, image); err != nil {
		return err
	}
	summaries := make([]string, 0, len(steps))
	for i := range steps {
		s := &steps[i]
		final, err := d.step(ctx, s, dir)
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.kind, s.declared(), err)
		}
		summaries = append(summaries, "demo: ok "+split.Summary(s.declared(), final))
	}
	fmt.Fprintln(d.out)
	for _, summary := range summaries {
		fmt.Fprintln(d.out, summary)
	}
	d.lookAround()
	return nil
}

// setUp applies the application without its routes and waits until everything is ready.
func (d *demo) setUp(ctx context.Context, dir, image string) error {
	fmt.Fprintf(d.out, "$ kubectl apply -f %s\n", filepath.Join(dir, "app.yaml"))
	app, err := os.ReadFile(filepath.Join(dir, "app.yaml"))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if app, err = withImage(app, image); err != nil {
		return err
	}
	if err := d.apply(ctx, app); err != nil {
		return err
	}
	// What an earlier run has left would tell the end of the story first.
	if _, err := d.kubectl.run(ctx, nil, "-n", namespace, "delete", "--ignore-not-found", "httproute/web", "grpcroute/web"); err != nil {
		return err
	}
	fmt.Fprintln(d.out, "waiting for two versions of a web service, a client, and the proxies of their namespace")
	for _, deployment := range []string{"web-v1", "web-v2", "client", meshv1alpha1.ProxyName} {
		if err := d.awaitRollout(ctx, deployment); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.out, "waiting until what the client sends is captured")
	_, err = d.kubectl.run(ctx, nil, "-n", namespace, "exec", "deploy/client", "--", "app", "captured", "-timeout", patience.String(), overHTTP.target)
	return err
}

// withImage puts the application's image in place of the name that the file has for it.
func withImage(manifest []byte, image string) ([]byte, error) {
	old := []byte("image: " + imageName + "\n")
	if !bytes.Contains(manifest, old) {
		return nil, fmt.Errorf("no container of the application has the image %s", imageName)
	}
	return bytes.ReplaceAll(manifest, old, []byte("image: "+image+"\n")), nil
}

func (d *demo) apply(ctx context.Context, manifest []byte) error {
	_, err := d.kubectl.run(ctx, bytes.NewReader(manifest), "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// awaitRollout waits until a Deployment exists and all its pods are ready. The operator makes that of the
// proxies in its own time.
func (d *demo) awaitRollout(ctx context.Context, deployment string) error {
	if err := await(ctx, func(ctx context.Context) error {
		_, err := d.kubectl.run(ctx, nil, "-n", namespace, "get", "deployment", deployment)
		return err
	}); err != nil {
		return err
	}
	_, err := d.kubectl.run(ctx, nil, "-n", namespace, "rollout", "status", "deployment/"+deployment, "--timeout", patience.String())
	return err
}

// step changes the route, waits until proxies have it, and sends requests.
func (d *demo) step(ctx context.Context, s *step, dir string) (split.Counts, error) {
	fmt.Fprintf(d.out, "\n%s: %s\n", s.declared(), s.title)
	begin := time.Now()
	if err := d.declare(ctx, s, dir); err != nil {
		return split.Counts{}, err
	}
	if err := await(ctx, func(ctx context.Context) error { return d.programmed(ctx, s.resource()) }); err != nil {
		return split.Counts{}, err
	}
	fmt.Fprintf(d.out, "  Programmed after %s\n", time.Since(begin).Round(time.Millisecond))
	return d.send(ctx, s)
}

// declare applies the route's file or patches its weights.
func (d *demo) declare(ctx context.Context, s *step, dir string) error {
	if s.file != "" {
		fmt.Fprintf(d.out, "$ kubectl apply -f %s\n", filepath.Join(dir, s.file))
		route, err := os.ReadFile(filepath.Join(dir, s.file))
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		return d.apply(ctx, route)
	}
	patch := weightsPatch(s.first, s.second)
	fmt.Fprintf(d.out, "$ kubectl -n %s patch %s web --type json -p '%s'\n", namespace, s.resource(), patch)
	_, err := d.kubectl.run(ctx, nil, "-n", namespace, "patch", s.resource(), "web", "--type", "json", "-p", patch)
	return err
}

func weightsPatch(first, second int32) string {
	const one = `{"op":"replace","path":"/spec/rules/0/backendRefs/%d/weight","value":%d}`
	return fmt.Sprintf("["+one+","+one+"]", 0, first, 1, second)
}

// route is what both kinds of routes have in common.
type route struct {
	metav1.ObjectMeta `json:"metadata"`
	Status            gwv1.RouteStatus `json:"status"`
}

// programmed returns an error as long as not every ready proxy has the route in its present generation.
func (d *demo) programmed(ctx context.Context, resource string) error {
	var r route
	if err := d.kubectl.get(ctx, &r, resource, "web"); err != nil {
		return err
	}
	return r.programmed()
}

func (r *route) programmed() error {
	why := "Weft has not written a status"
	for i := range r.Status.Parents {
		if r.Status.Parents[i].ControllerName != meshv1alpha1.ControllerName {
			continue
		}
		for _, c := range r.Status.Parents[i].Conditions {
			if c.Type != status.ConditionProgrammed {
				continue
			}
			if c.Status == metav1.ConditionTrue && c.ObservedGeneration == r.Generation {
				return nil
			}
			why = fmt.Sprintf("generation %d is %s: %s", c.ObservedGeneration, c.Reason, c.Message)
		}
	}
	return fmt.Errorf("generation %d of the route is not programmed: %s", r.Generation, why)
}

// lookAround says what there is to see now.
func (d *demo) lookAround() {
	tool := "kubectl"
	fmt.Fprintln(d.out, "\nThe cluster stays up. To look around:")
	if d.local {
		tool = localKubectl
		fmt.Fprintf(d.out, "  export KUBECONFIG=%s\n", localKubeconfig)
	}
	fmt.Fprintf(d.out, "  %s -n %s get httproute,grpcroute,pods -o wide\n", tool, namespace)
	fmt.Fprintf(d.out, "  %s -n %s get httproute web -o yaml\n", tool, namespace)
	fmt.Fprintf(d.out, "  %s get mesh default -o yaml\n", tool)
	fmt.Fprintf(d.out, "  %s -n %s exec deploy/client -- app send -n 1000 %s\n", tool, namespace, overHTTP.target)
	fmt.Fprintln(d.out, "  bin/kubectl-weft status")
	fmt.Fprintln(d.out, "Then break something and find it: docs/first-failure.md")
	if d.local {
		fmt.Fprintln(d.out, "To stop it: make demo-down")
	} else {
		fmt.Fprintf(d.out, "To remove the demo: %s delete namespace %s\n", tool, namespace)
	}
}
