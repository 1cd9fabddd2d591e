package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weft.dev/weft/test/cluster/config"
)

// api reads from the cluster's API server as its administrator. Writes go through kubectl.
type api struct {
	server string
	client *http.Client
	// kubectl and kubeconfig are paths.
	kubectl, kubeconfig string
}

// newAPI returns a client for the cluster that s records, with the credentials that saveAdmin kept.
func newAPI(c config.Cluster, s state) (*api, error) {
	certificate, err := tls.LoadX509KeyPair(adminFile("crt"), adminFile("key"))
	if err != nil {
		return nil, fmt.Errorf("read the administrator's certificate: %w", err)
	}
	authority, err := os.ReadFile(adminFile("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("read the authority's certificate: no certificate in it")
	}
	transport := &http.Transport{
		// A proxy of the user's does not know the way to the cluster.
		Proxy:           nil,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
	}
	return &api{
		server:  c.Server(),
		client:  &http.Client{Transport: transport, Timeout: 5 * time.Second},
		kubectl: filepath.Join(s.Kubernetes, "kubectl"), kubeconfig: kubeconfig(s.Output),
	}, nil
}

func adminFile(name string) string { return filepath.Join(stateDir, "admin."+name) }

func saveAdmin(creds config.Credentials) error {
	for name, content := range map[string][]byte{
		"crt": creds.Admin.Certificate, "key": creds.Admin.Key, "ca.crt": creds.Authority,
	} {
		if err := writeFile(adminFile(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// get decodes the object at path into out, unless out is nil.
func (a *api) get(ctx context.Context, path string, out any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end or given up
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
		return fmt.Errorf("ask for %s: %s: %s", path, response.Status, bytes.TrimSpace(body))
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(out); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (a *api) kubectlRun(ctx context.Context, stdin []byte, args ...string) error {
	cmd := exec.CommandContext(ctx, a.kubectl, append([]string{"--kubeconfig=" + a.kubeconfig}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(output))
	}
	return nil
}

// nodeReady returns nil when the node is ready by its own word, given at or after since.
func (a *api) nodeReady(ctx context.Context, name string, since time.Time) error {
	var node struct {
		Status struct {
			Conditions []struct {
				Type, Status, Message string
				LastHeartbeatTime     time.Time
			}
		}
	}
	if err := a.get(ctx, "/api/v1/nodes/"+name, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.Status != "True" {
			return fmt.Errorf("node %s is not ready: %s", name, condition.Message)
		}
		// The API keeps whole seconds.
		if condition.LastHeartbeatTime.Before(since.Truncate(time.Second)) {
			return fmt.Errorf("node %s has not spoken since %s", name, since.Format(time.TimeOnly))
		}
		return nil
	}
	return fmt.Errorf("node %s has no Ready condition yet", name)
}

func (a *api) deploymentReady(ctx context.Context, namespace, name string) error {
	var deployment struct {
		Metadata struct{ Generation int64 }
		Status   struct {
			ObservedGeneration int64
			AvailableReplicas  int32
		}
	}
	if err := a.get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, &deployment); err != nil {
		return err
	}
	if deployment.Status.ObservedGeneration < deployment.Metadata.Generation || deployment.Status.AvailableReplicas == 0 {
		return fmt.Errorf("deployment %s/%s has no available replica", namespace, name)
	}
	return nil
}

// poll repeats check until it succeeds; when ctx ends first, the error says what check missed.
func poll(ctx context.Context, interval time.Duration, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if sleep(ctx, interval) != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// importImage gives an image archive to the containerd of the node whose first process is pid. Its
// socket is reached through the process' root, so nothing of the node needs to be mounted here.
func importImage(ctx context.Context, containerd string, pid int, archive io.Reader) error {
	cmd := exec.CommandContext(ctx, filepath.Join(containerd, "ctr"),
		"-a", fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", pid),
		"-n", "k8s.io", "images", "import", "-")
	cmd.Stdin = archive
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import an image: %w: %s", err, bytes.TrimSpace(output))
	}
	return nil
}
