package envtest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/webhooks"
)

// operator is one operator process as far as the cluster can tell: a manager of its own with caches,
// hub and leader election.
type operator struct {
	name string
	// address is where it serves configuration if it leads, webhook where it answers admission reviews.
	address, webhook string
	metrics          *prometheus.Registry
	// tried has what the operator has set out to write: an entry is there before its effect can be seen.
	// requests has the answers as well, and is behind what can be seen.
	tried, requests *journal

	cancel context.CancelFunc
	done   chan struct{}
	// err is why the manager ended, once done is closed.
	err error

	mu sync.Mutex
	// passes counts the lists of all HTTPRoutes that the operator has made: one for each pass that
	// reads everything.
	passes int
	// before, if set, is called before each request.
	before func(*http.Request)
	// crashing, if set, tells at which request the operator dies, crashed is closed when it has.
	crashing *crash
	crashed  chan struct{}
}

// crash is the death of an operator at the nth of the requests that match: before it reaches the API server, or
// after that and before its answer comes back.
type crash struct {
	match   func(*http.Request) bool
	nth     int
	written bool
}

var errCrashed = errors.New("the operator has crashed")

// current is the operator that leads, also between specs. One that has known node agents is spent: it
// would wait for their return.
var (
	current atomic.Pointer[operator]
	spent   bool
)

// leader returns the operator that leads.
func leader() *operator { return current.Load() }

// succeed lets another operator lead, or none.
func succeed(next *operator) {
	GinkgoHelper()
	if old := current.Swap(next); old != nil {
		old.stop()
	}
}

var _ = BeforeEach(func() {
	if leader() == nil || spent {
		succeed(nil)
		succeed(startOperator())
		spent = false
	}
})

var _ = AfterEach(func() {
	if o := leader(); o != nil {
		o.intercept(nil)
		select {
		case <-o.crashed:
			spent = true
		default:
		}
	}
})

var _ = AfterSuite(func() { succeed(nil) })

// startOperator starts an operator that stands for election. It does not wait for anything.
func startOperator(change ...func(*controllers.Options)) *operator {
	o := &operator{address: freeAddress(), webhook: freeAddress(), metrics: prometheus.NewRegistry(), tried: &journal{}, requests: &journal{}, crashed: make(chan struct{}), done: make(chan struct{})}
	o.name = "weft-operator-" + o.address[strings.LastIndex(o.address, ":")+1:]
	settings := rest.CopyConfig(operatorConfig)
	settings.Wrap(func(next http.RoundTripper) http.RoundTripper { return &auditor{o, next} })

	cacheOptions := cluster.CacheOptions()
	maps.Copy(cacheOptions.ByObject, infra.CacheOptions())
	maps.Copy(cacheOptions.ByObject, webhooks.CacheOptions())
	// Several operators live one after the other in this process, under the same controller names.
	anyName, electionRetry := true, 250*time.Millisecond
	manager, err := ctrl.NewManager(settings, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions,
		NewClient:                     o.newClient,
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		Controller:                    config.Controller{SkipNameValidation: &anyName},
		LeaderElection:                true,
		LeaderElectionID:              "weft-operator",
		LeaderElectionNamespace:       systemNamespace,
		LeaderElectionReleaseOnCancel: true,
		RetryPeriod:                   &electionRetry,
	})
	Expect(err).NotTo(HaveOccurred())
	direct, err := client.NewWithWatch(settings, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	options := controllers.Options{
		Namespace:     systemNamespace,
		PodName:       o.name,
		PodAddresses:  []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::123")},
		ProxyImage:    "example.com/weft-proxy:test",
		ConfigListen:  o.address,
		WebhookListen: o.webhook,
		ConnectGrace:  patience,
	}
	for _, c := range change {
		c(&options)
	}
	Expect(controllers.Setup(ctx, manager, direct, options, o.metrics)).To(Succeed())
	go func() {
		defer close(o.done)
		o.err = manager.Start(ctx)
	}()
	return o
}

// stop ends the operator as a signal would: it gives up its lease and its streams.
func (o *operator) stop() {
	GinkgoHelper()
	o.cancel()
	Eventually(o.done).Should(BeClosed())
	Expect(o.err).NotTo(HaveOccurred())
}

// intercept has a function called before each request to the API server, and at most one at a time.
func (o *operator) intercept(before func(*http.Request)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.before = before
}

// crash lets the operator die at a request: nothing that it asks from then on reaches the API server.
func (o *operator) crash(at crash) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.crashing = &at
}

// dies tells whether the operator has crashed, or does so at this request.
func (o *operator) dies(r *http.Request) (now, afterwards bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.crashed:
		return true, false
	default:
	}
	if o.crashing == nil || !o.crashing.match(r) {
		return false, false
	}
	if o.crashing.nth--; o.crashing.nth > 0 {
		return false, false
	}
	if !o.crashing.written {
		close(o.crashed)
	}
	return !o.crashing.written, o.crashing.written
}

// compiled returns how many passes have read and compiled everything.
func (o *operator) compiled() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.passes
}

// clients returns how many clients of a kind have an open stream.
func (o *operator) clients(kind string) (int, error) {
	return o.metric("weft_config_clients", kind)
}

// refused returns how many streams were refused because of their token.
func (o *operator) refused() (int, error) {
	return o.metric("weft_config_refused_total", codes.Unauthenticated.String())
}

// metric returns the value of a metric with one label.
func (o *operator) metric(name, label string) (int, error) {
	families, err := o.metrics.Gather()
	if err != nil {
		return 0, err
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && metric.GetLabel()[0].GetValue() == label {
				return int(metric.GetGauge().GetValue() + metric.GetCounter().GetValue()), nil
			}
		}
	}
	return 0, nil
}

// newClient is the manager's default client, which counts passes.
func (o *operator) newClient(settings *rest.Config, options client.Options) (client.Client, error) {
	c, err := client.New(settings, options)
	return &listCounter{c, o}, err
}

type listCounter struct {
	client.Client
	operator *operator
}

func (c *listCounter) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*gwv1.HTTPRouteList); ok {
		c.operator.mu.Lock()
		c.operator.passes++
		c.operator.mu.Unlock()
	}
	return c.Client.List(ctx, list, opts...)
}

// auditor notes what the operator writes.
type auditor struct {
	operator *operator
	next     http.RoundTripper
}

func (a *auditor) RoundTrip(r *http.Request) (*http.Response, error) {
	a.operator.mu.Lock()
	if a.operator.before != nil {
		a.operator.before(r)
	}
	a.operator.mu.Unlock()
	if r.Method != http.MethodGet {
		a.operator.tried.add(r.Method + " " + r.URL.Path)
	}
	now, afterwards := a.operator.dies(r)
	if now {
		return nil, errCrashed
	}
	response, err := a.next.RoundTrip(r)
	if afterwards {
		if err == nil {
			err = errors.Join(errCrashed, response.Body.Close())
		}
		close(a.operator.crashed)
		return nil, err
	}
	if r.Method != http.MethodGet && err == nil {
		entry := fmt.Sprintf("%s %s %d", r.Method, r.URL.Path, response.StatusCode)
		a.operator.requests.add(entry)
		events.add(entry)
	}
	return response, err
}

// events holds what happened in order: what operators wrote and what clients have put in force.
var events = &journal{}

// journal is a list that only grows.
type journal struct {
	mu      sync.Mutex
	entries []string
}

func (j *journal) add(entry string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, entry)
}

// all returns the entries that contain every one of the texts.
func (j *journal) all(texts ...string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []string
	for _, entry := range j.entries {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(entry, text) }) {
			found = append(found, entry)
		}
	}
	return found
}

// before tells that an entry contains first, and that the first such entry comes before any that
// contains second.
func (j *journal) before(first, second string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := func(text string) int {
		return slices.IndexFunc(j.entries, func(entry string) bool { return strings.Contains(entry, text) })
	}
	one, two := at(first), at(second)
	return one >= 0 && (two < 0 || one < two)
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	address := listener.Addr().String()
	Expect(listener.Close()).To(Succeed())
	return address
}
