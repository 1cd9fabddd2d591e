// Package envtest_test runs the whole operator, with the rights that its manifests give it, against a
// real kube-apiserver and etcd, and plays users, proxies and node agents beside it: the latter with the
// stream client that they use themselves. Nothing else of a cluster runs, so pods, ReplicaSets and
// endpoints are written by hand. It holds what a user of the API, or a client of the configuration
// stream, can see; what resources mean is tested where they are compiled.
package envtest_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/cluster/build"
)

const (
	systemNamespace = "weft-system"
	// patience is how long a spec waits for what must happen; it is never reached when all is well.
	patience = time.Minute
)

var (
	scheme = runtime.NewScheme()
	// user may do everything: it is people, and the controllers of a cluster that are not ours.
	user client.WithWatch
	// userConfig is what user is made from, operatorConfig has the rights of the operator's
	// ServiceAccount and no others.
	userConfig, operatorConfig *rest.Config
	gatewayAPI                 envtest.CRDInstallOptions
)

func TestOperator(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(patience)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "Operator")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	log := logr.FromSlogHandler(slog.NewTextHandler(GinkgoWriter, &slog.HandlerOptions{Level: slog.LevelInfo}))
	ctrl.SetLogger(log)
	klog.SetLogger(log.WithName("client"))
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gwv1.Install, certmanager.AddToScheme, meshv1alpha1.AddToScheme} {
		Expect(add(scheme)).To(Succeed())
	}
	cluster := &envtest.Environment{
		Scheme:                   scheme,
		BinaryAssetsDirectory:    assets(ctx),
		CRDDirectoryPaths:        []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  patience,
	}
	var err error
	userConfig, err = cluster.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(cluster.Stop()).To(Succeed()) })
	user, err = client.NewWithWatch(userConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	gatewayAPI = envtest.CRDInstallOptions{Scheme: scheme, Paths: gatewayAPIFiles(ctx), ErrorIfPathMissing: true}
	_, err = envtest.InstallCRDs(userConfig, gatewayAPI)
	Expect(err).NotTo(HaveOccurred())

	account, err := cluster.AddUser(envtest.User{
		Name:   "system:serviceaccount:" + systemNamespace + ":weft-operator",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace},
	}, userConfig)
	Expect(err).NotTo(HaveOccurred())
	operatorConfig = account.Config()
	Expect(user.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}})).To(Succeed())
	for _, pattern := range []string{"rbac/*.yaml", "manager/config_service.yaml", "node/*.yaml", "manifests/agents_*.yaml"} {
		apply(ctx, pattern)
	}
}, NodeTimeout(15*time.Minute))

// root is the checkout.
var root = filepath.Join("..", "..")

// assets returns the directory of kube-apiserver and etcd. They are built when nobody has them yet.
func assets(ctx context.Context) string {
	builder, err := build.New(root, GinkgoWriter)
	Expect(err).NotTo(HaveOccurred())
	dir, err := builder.EnvtestAssets(ctx)
	Expect(err).NotTo(HaveOccurred())
	return dir
}

// gatewayAPIFiles are the CRDs of the standard channel that the operator needs.
func gatewayAPIFiles(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	Expect(err).NotTo(HaveOccurred())
	dir := filepath.Join(strings.TrimSpace(string(out)), "config", "crd", "standard")
	var files []string
	for _, resource := range []string{"httproutes", "grpcroutes"} {
		files = append(files, filepath.Join(dir, "gateway.networking.k8s.io_"+resource+".yaml"))
	}
	return files
}

// apply creates what the manifests say that a user would apply. Without kustomize they lack nothing
// that the specs need.
func apply(ctx context.Context, pattern string) {
	files, err := filepath.Glob(filepath.Join(root, "config", pattern))
	Expect(err).NotTo(HaveOccurred())
	Expect(files).NotTo(BeEmpty())
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		reader, err := os.Open(file)
		Expect(err).NotTo(HaveOccurred())
		defer reader.Close()
		for decoder := yaml.NewYAMLOrJSONDecoder(reader, 4096); ; {
			object := &unstructured.Unstructured{}
			if decoder.Decode(&object.Object) != nil {
				break
			}
			err := user.Create(ctx, object)
			Expect(client.IgnoreAlreadyExists(err)).NotTo(HaveOccurred(), "%s", file)
		}
	}
}

// gone expects an object not to exist.
func gone(ctx context.Context, object client.Object) func(Gomega) {
	return func(g Gomega) {
		err := user.Get(ctx, client.ObjectKeyFromObject(object), object)
		g.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%T %s: %v", object, object.GetName(), err)
	}
}
