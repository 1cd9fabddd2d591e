package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/bench/propagation/probe"
)

const (
	// namespace is the benchmark's own; everything is in it, and goes with it.
	namespace = "bench-propagation"
	routeName = "web"
	probeName = "probe"
	// connections is how many the probe keeps, so that the probes go on while one waits.
	connections = 2
	// probeInterval is the time between two requests, finer than what the goal asks.
	probeInterval = 500 * time.Microsecond
	// look is the time between two looks at what is waited for.
	look = 100 * time.Millisecond
)

// stage is the cluster with what the benchmark needs in it.
type stage struct {
	client    client.WithWatch
	clientset kubernetes.Interface
	image     string
}

func newStage(kubeconfig string) (*stage, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS = -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, gwv1.Install, meshv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("scheme: %w", err)
		}
	}
	s := &stage{}
	if s.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if s.clientset, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return s, nil
}

// build loads the app, removes what an earlier run left and sets everything up, the probe last: what it
// sends is to meet proxies that serve the route.
func (s *stage) build(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	if err := s.remove(ctx); err != nil {
		return err
	}
	objects := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}}},
		service(routeName, map[string]string{"role": "backend"}),
		route(),
	}
	for _, name := range backends {
		objects = append(objects,
			service(name, map[string]string{"app": name}), s.pod(name, "backend", "serve", name))
	}
	for _, o := range objects {
		if err := s.client.Create(ctx, o); err != nil {
			return fmt.Errorf("create %T: %w", o, err)
		}
	}
	for _, name := range backends {
		if err := s.awaitReady(ctx, name); err != nil {
			return err
		}
	}
	if err := s.awaitProgrammed(ctx); err != nil {
		return err
	}
	if err := s.client.Create(ctx, s.pod(probeName, "client", "probe",
		"-connections", strconv.Itoa(connections), "-interval", probeInterval.String(), "http://"+routeName+":80/")); err != nil {
		return fmt.Errorf("create the probe: %w", err)
	}
	return s.awaitReady(ctx, probeName)
}

// load builds the app and loads its image into the local cluster. The tag is the binary's hash, so that
// what runs is what is here.
func (s *stage) load(ctx context.Context) error {
	binary, archive := filepath.Join("bin", "bench-propagation"), filepath.Join("build", "images", "bench-propagation.tar")
	if err := command(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./test/bench/propagation/app"); err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read the app: %w", err)
	}
	sum := sha256.Sum256(content)
	s.image = "weft-bench-propagation:" + hex.EncodeToString(sum[:6])
	if err := command(ctx, "go", "run", "./test/cluster", "image", "-tag", s.image, "-binary", binary, "-out", archive); err != nil {
		return err
	}
	return command(ctx, "go", "run", "./test/cluster", "load", archive)
}

// command runs a program in the checkout.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, output)
	}
	return nil
}

// remove deletes the namespace and waits until it is gone.
func (s *stage) remove(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := s.client.Delete(ctx, ns); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	return until(ctx, "the namespace is not gone", func() (bool, error) {
		err := s.client.Get(ctx, client.ObjectKeyFromObject(ns), ns)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}

func (s *stage) awaitReady(ctx context.Context, name string) error {
	pod := &corev1.Pod{ObjectMeta: objectMeta(name)}
	return until(ctx, "pod "+name+" is not ready", func() (bool, error) {
		err := s.client.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return true, err
			}
		}
		return false, err
	})
}

// awaitProgrammed waits until the route is in all proxies that there shall be.
func (s *stage) awaitProgrammed(ctx context.Context) error {
	deployment := &appsv1.Deployment{ObjectMeta: objectMeta(meshv1alpha1.ProxyName)}
	route := &gwv1.HTTPRoute{ObjectMeta: objectMeta(routeName)}
	return until(ctx, "the route is not programmed in all proxies", func() (bool, error) {
		if err := s.client.Get(ctx, client.ObjectKeyFromObject(deployment), deployment); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		if deployment.Spec.Replicas == nil || deployment.Status.AvailableReplicas != *deployment.Spec.Replicas {
			return false, nil
		}
		err := s.client.Get(ctx, client.ObjectKeyFromObject(route), route)
		return programmed(route), err
	})
}

// until looks again and again, until done or an error.
func until(ctx context.Context, otherwise string, done func() (bool, error)) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ctx.Err() == nil && err != nil {
			return err
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", otherwise, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func objectMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func service(name string, selector map[string]string) *corev1.Service {
	protocol := "http"
	return &corev1.Service{
		ObjectMeta: objectMeta(name),
		Spec: corev1.ServiceSpec{
			Selector: selector,
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), AppProtocol: &protocol}},
		},
	}
}

func (s *stage) pod(name, role string, args ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: objectMeta(name)}
	pod.Labels = map[string]string{"app": name, "role": role}
	grace, token := int64(1), false
	pod.Spec = corev1.PodSpec{
		AutomountServiceAccountToken: &token, TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{Name: "app", Image: s.image, ImagePullPolicy: corev1.PullNever, Args: args}},
	}
	return pod
}

func route() *gwv1.HTTPRoute {
	group, kind, port := gwv1.Group(""), gwv1.Kind("Service"), gwv1.PortNumber(80)
	route := &gwv1.HTTPRoute{ObjectMeta: objectMeta(routeName)}
	route.Spec.ParentRefs = []gwv1.ParentReference{{Group: &group, Kind: &kind, Name: routeName, Port: &port}}
	route.Spec.Rules = rules(0)
	return route
}

// rules are those of the route after an edit.
func rules(edit int) []gwv1.HTTPRouteRule {
	port := gwv1.PortNumber(80)
	backend := gwv1.HTTPBackendRef{}
	backend.Name, backend.Port = gwv1.ObjectName(backendOf(edit)), &port
	return []gwv1.HTTPRouteRule{{
		BackendRefs: []gwv1.HTTPBackendRef{backend},
		Filters: []gwv1.HTTPRouteFilter{{
			Type: gwv1.HTTPRouteFilterResponseHeaderModifier,
			ResponseHeaderModifier: &gwv1.HTTPHeaderFilter{
				Set: []gwv1.HTTPHeader{{Name: probe.EditHeader, Value: strconv.Itoa(edit)}},
			},
		}},
	}}
}
