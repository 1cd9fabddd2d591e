package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Person is somebody who uses kubectl weft with rights of their own: a ServiceAccount.
type Person struct {
	// Token is what the API server knows her by.
	Token              string
	binary, kubeconfig string
}

// Person makes a ServiceAccount in a namespace that has ClusterRoles everywhere. It lives as long as the test.
func (b *Bed) Person(t testing.TB, namespace, name string, clusterRoles ...string) *Person {
	t.Helper()
	b.Create(t, &corev1.ServiceAccount{ObjectMeta: objectMeta(namespace, name)})
	for _, role := range clusterRoles {
		b.Create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: objectMeta("", namespace+"-"+name+"-"+role),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
		})
	}
	token := &authenticationv1.TokenRequest{}
	account := &corev1.ServiceAccount{ObjectMeta: objectMeta(namespace, name)}
	if err := b.Client.SubResource("token").Create(t.Context(), account, token); err != nil {
		t.Fatalf("token of %s: %v", name, err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: b.config.Host, CertificateAuthority: b.config.CAFile, CertificateAuthorityData: b.config.CAData}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: name, Namespace: namespace}
	config.CurrentContext = "e2e"
	p := &Person{Token: token.Status.Token, binary: b.Path(t, "bin", "kubectl-weft"), kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	if err := clientcmd.WriteToFile(*config, p.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return p
}

// Path returns the absolute path of a file of the checkout, which must exist.
func (b *Bed) Path(t testing.TB, parts ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(append([]string{b.root}, parts...)...))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run the tests with make e2e", err)
	}
	return path
}

// Ran is what a command line did.
type Ran struct {
	Code        int
	Out, Errors string
}

// String writes all of it, for messages.
func (r Ran) String() string { return fmt.Sprintf("exit code %d\n%s%s", r.Code, r.Out, r.Errors) }

// Weft prepares kubectl weft with arguments.
func (p *Person) Weft(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig)
	return cmd
}

// Run runs kubectl weft to its end.
func (p *Person) Run(t testing.TB, args ...string) Ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := p.Weft(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var ended *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &ended) {
		t.Fatalf("kubectl weft %q: %v", args, err)
	}
	return Ran{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}
