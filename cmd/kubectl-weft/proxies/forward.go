package proxies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Forward is a Way through the API server, which needs the right to create pods/portforward. Each answer has a
// port-forward of its own, which ends with its body.
type Forward struct {
	config *rest.Config
	client kubernetes.Interface
}

// patience bounds how long a port-forward takes to open, and a proxy behind it to begin its answer: a stream of a node that
// has much to do may be lost without a word.
const patience = 20 * time.Second

// NewForward returns the way through the API server of a configuration.
func NewForward(config *rest.Config) (*Forward, error) {
	// A stream may last longer than one answer of the API server.
	config = rest.CopyConfig(config)
	config.Timeout = 0
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &Forward{config, client}, nil
}

// Get implements Way.
func (f *Forward) Get(ctx context.Context, pod types.NamespacedName, port int, path string) (io.ReadCloser, error) {
	local, end, err := f.open(ctx, pod, port)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", local, path), nil)
	if err != nil {
		end()
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: patience}}
	res, err := client.Do(req)
	if err != nil {
		end()
		return nil, fmt.Errorf("port %d does not answer: it may be of an older version: %w", port, err)
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 256))
		_ = res.Body.Close()
		end()
		return nil, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return &forwarded{res.Body, end}, nil
}

// open forwards a free local port until end is called or ctx ends.
func (f *Forward) open(ctx context.Context, pod types.NamespacedName, port int) (local uint16, end func(), err error) {
	url := f.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(f.config)
	if err != nil {
		return 0, nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	forwarder, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, ready, io.Discard, io.Discard)
	if err != nil {
		cancel()
		return 0, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	end = sync.OnceFunc(cancel)
	select {
	case <-ready:
	case err := <-ended:
		end()
		return 0, nil, refused(pod, err)
	case <-ctx.Done():
		end()
		return 0, nil, ctx.Err()
	case <-time.After(patience):
		end()
		return 0, nil, errors.New("the API server opens no port-forward")
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		end()
		return 0, nil, err
	}
	return ports[0].Local, end, nil
}

// refused tells that a right is missing from other failures. Of what the API server says, client-go passes on the
// text alone.
func refused(pod types.NamespacedName, err error) error {
	if err == nil {
		return errors.New("the port-forward has ended")
	}
	if strings.Contains(err.Error(), "forbidden") {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "pods/portforward"}, pod.Name, err)
	}
	return err
}

// forwarded is a body whose end is that of its port-forward.
type forwarded struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (f *forwarded) Close() error {
	err := f.ReadCloser.Close()
	f.end()
	return err
}
