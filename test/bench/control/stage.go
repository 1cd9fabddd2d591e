package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/cluster/build"
)

const (
	systemNamespace = "weft-system"
	// namespace has all routes, Services and EndpointSlices.
	namespace = "shop"
	// patience bounds what must happen and is not measured.
	patience = 5 * time.Minute
)

// stage is a control plane with the operator and the proxy.
type stage struct {
	cluster                     *envtest.Environment
	config                      *rest.Config
	client                      client.WithWatch
	files                       string
	operator                    *process
	operatorBinary, proxyBinary string
	addresses                   addresses
	proxy                       *proxy
	pod                         *corev1.Pod
	token                       string
	routes                      int
	generation                  int
}

// addresses are where the operator listens.
type addresses struct{ config, webhook, metrics string }

func newStage(ctx context.Context, operator, proxy string) (s *stage, err error) {
	s = &stage{operatorBinary: operator, proxyBinary: proxy}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.files, err = os.MkdirTemp("", "weft-bench-control-"); err != nil {
		return s, fmt.Errorf("files: %w", err)
	}
	if err := s.startCluster(ctx); err != nil {
		return s, err
	}
	for _, address := range []*string{&s.addresses.config, &s.addresses.webhook, &s.addresses.metrics} {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return s, fmt.Errorf("find a port: %w", err)
		}
		*address = l.Addr().String()
		if err := l.Close(); err != nil {
			return s, fmt.Errorf("find a port: %w", err)
		}
	}
	if err := s.startOperator(); err != nil {
		return s, err
	}
	return s, s.startProxy(ctx)
}

func (s *stage) startCluster(ctx context.Context) error {
	builder, err := build.New(".", os.Stderr)
	if err != nil {
		return fmt.Errorf("kube-apiserver and etcd: %w", err)
	}
	assets, err := builder.EnvtestAssets(ctx)
	if err != nil {
		return fmt.Errorf("kube-apiserver and etcd: %w", err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gwv1.Install, meshv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("scheme: %w", err)
		}
	}
	gatewayAPI, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return fmt.Errorf("find the Gateway API: %w", err)
	}
	standard := filepath.Join(strings.TrimSpace(string(gatewayAPI)), "config", "crd", "standard")
	s.cluster = &envtest.Environment{
		Scheme: scheme, BinaryAssetsDirectory: assets, ErrorIfCRDPathMissing: true,
		CRDDirectoryPaths: []string{
			filepath.Join("config", "crd", "bases"),
			filepath.Join(standard, "gateway.networking.k8s.io_httproutes.yaml"), filepath.Join(standard, "gateway.networking.k8s.io_grpcroutes.yaml"),
		},
		ControlPlaneStartTimeout: patience, ControlPlaneStopTimeout: time.Minute,
	}
	s.cluster.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.0.0.0/16")
	if s.config, err = s.cluster.Start(); err != nil {
		return fmt.Errorf("start kube-apiserver: %w", err)
	}
	s.config.QPS = -1
	if s.client, err = client.NewWithWatch(s.config, client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	objects := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{meshv1alpha1.EnabledLabel: "true"}}},
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weft-config"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "config", Port: 15010}}},
		},
		// The reader of the operator's metrics.
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "bench"}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "bench"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: systemNamespace, Name: "bench"}},
		},
	}
	for _, o := range objects {
		if err := s.client.Create(ctx, o); err != nil {
			return fmt.Errorf("create %T: %w", o, err)
		}
	}
	s.token, err = s.tokenOf(ctx, "bench", systemNamespace, nil)
	return err
}

// tokenOf returns a token of a ServiceAccount, bound to a pod if there is one.
func (s *stage) tokenOf(ctx context.Context, account, in string, pod *corev1.Pod) (string, error) {
	seconds := int64(24 * 3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if pod != nil {
		request.Spec.Audiences = []string{wire.TokenAudience}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	err := s.client.SubResource("token").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: in, Name: account}}, request)
	if err != nil {
		return "", fmt.Errorf("token of %s: %w", account, err)
	}
	return request.Status.Token, nil
}

func (s *stage) startOperator() error {
	kubeconfig := filepath.Join(s.files, "kubeconfig")
	if err := os.WriteFile(kubeconfig, s.cluster.KubeConfig, 0o600); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	cmd := exec.Command(s.operatorBinary, "--namespace", systemNamespace, "--pod", "weft-operator-0", "--pod-addresses", "10.1.2.3",
		"--proxy-image", "example.com/weft-proxy:bench", "--config-bind-address", s.addresses.config, "--webhook-bind-address", s.addresses.webhook,
		"--metrics-bind-address", s.addresses.metrics, "--health-probe-bind-address", "0")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var err error
	s.operator, err = start(cmd, filepath.Join(s.files, "operator.log"))
	return err
}

// startProxy makes a pod of the Deployment that the operator has made for the namespace, and runs the proxy.
func (s *stage) startProxy(ctx context.Context) error {
	deployment, bundle := &appsv1.Deployment{}, &corev1.ConfigMap{}
	err := until(ctx, "the operator deploys no proxies", func() (bool, error) {
		err := errors.Join(
			s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: meshv1alpha1.ProxyName}, deployment),
			s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "weft-ca-bundle"}, bundle))
		return err == nil, err
	})
	if err != nil {
		return err
	}
	replicaSet := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "weft-proxy-1"},
		Spec:       appsv1.ReplicaSetSpec{Selector: deployment.Spec.Selector, Template: deployment.Spec.Template},
	}
	s.pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "weft-proxy-1-0", Labels: deployment.Spec.Template.Labels},
		Spec: corev1.PodSpec{
			ServiceAccountName: meshv1alpha1.ProxyName, NodeName: "node", Containers: []corev1.Container{{Name: "main", Image: "example.com/main"}},
		},
	}
	for _, made := range []struct{ owner, object client.Object }{{deployment, replicaSet}, {replicaSet, s.pod}} {
		if err := controllerutil.SetControllerReference(made.owner, made.object, s.client.Scheme()); err != nil {
			return fmt.Errorf("own %T: %w", made.object, err)
		}
		if err := s.client.Create(ctx, made.object); err != nil {
			return fmt.Errorf("create %T: %w", made.object, err)
		}
	}
	token, err := s.tokenOf(ctx, meshv1alpha1.ProxyName, namespace, s.pod)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{"ca.crt": bundle.Data["ca.crt"], "token": token} {
		if err := os.WriteFile(filepath.Join(s.files, name), []byte(content), 0o600); err != nil {
			return fmt.Errorf("files of the proxy: %w", err)
		}
	}
	if s.proxy, err = newProxy(s.proxyBinary, s.files, s.addresses.config); err != nil {
		return err
	}
	s.pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.200.0.1", PodIPs: []corev1.PodIP{{IP: "10.200.0.1"}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if err := s.client.Status().Update(ctx, s.pod); err != nil {
		return fmt.Errorf("make the proxy ready: %w", err)
	}
	return nil
}

// restartOperator ends the operator and starts it again. It returns how long after its start the proxy has
// acknowledged its configuration.
func (s *stage) restartOperator(ctx context.Context) (time.Duration, error) {
	if err := s.operator.stop(); err != nil {
		return 0, err
	}
	before := s.proxy.connections()
	began := time.Now()
	if err := s.startOperator(); err != nil {
		return 0, err
	}
	err := until(ctx, "the proxy does not come back", func() (bool, error) { return s.proxy.connections() > before, nil })
	return time.Since(began), err
}

func (s *stage) stop() error {
	var err error
	if s.proxy != nil {
		err = errors.Join(err, s.proxy.stop())
	}
	if s.operator != nil {
		err = errors.Join(err, s.operator.stop())
	}
	if s.cluster != nil {
		err = errors.Join(err, s.cluster.Stop())
	}
	if s.files != "" && err == nil {
		err = os.RemoveAll(s.files)
	}
	return err
}

// process is one that this command has started.
type process struct {
	cmd *exec.Cmd
	log *os.File
}

func start(cmd *exec.Cmd, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	cmd.Stderr = f
	// It ends with this command, whatever becomes of that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), f.Close())
	}
	return &process{cmd, f}, nil
}

func (p *process) stop() error {
	if p.cmd == nil {
		return nil
	}
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait() // that it was ended by a signal is no news
	p.cmd = nil
	return errors.Join(err, p.log.Close())
}
