package engine

import (
	"context"
	"net/http"
	"testing"
	"time"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// retryPolicy returns an effective policy that lists these statuses.
func retryPolicy(methods wire.RetryMethods, codes []int, grpcCodes ...string) *wire.Policy {
	return effective(&wire.Policy{Retry: &wire.Retry{
		Attempts: new(1), Codes: codes, GRPCCodes: grpcCodes, Methods: &methods,
	}})
}

// TestNext is the whole decision: what a try has come to, for whom, and whether it is made again.
func TestNext(t *testing.T) {
	none := retryPolicy(wire.RetryIdempotent, nil)
	idempotentOnly := retryPolicy(wire.RetryIdempotent, []int{429, 500, 502, 503, 504})
	all := retryPolicy(wire.RetryAll, []int{429, 500, 502, 503, 504})
	only500 := retryPolicy(wire.RetryAll, []int{500})
	unavailable := retryPolicy(wire.RetryIdempotent, nil, "UNAVAILABLE")

	timedOut, cancel := context.WithCancelCause(t.Context())
	cancel(errBackendTimeout)
	failure := func(why upstream.Reason, notSent bool) *attempt {
		return &attempt{ctx: t.Context(), failure: &upstream.Error{Reason: why, NotSent: notSent}}
	}
	slow := func(notSent bool) *attempt {
		a := failure(upstream.ReasonCanceled, notSent)
		a.ctx = timedOut
		return a
	}
	response := func(status int) *attempt { return &attempt{response: &http.Response{StatusCode: status}} }
	call := func(code phttp.GRPCCode) *attempt {
		return &attempt{response: &http.Response{StatusCode: 200}, code: code}
	}
	// far is an answer that the other proxy has made itself.
	far := func(why reason.Reason, notSent bool) *attempt {
		a := &attempt{response: &http.Response{StatusCode: reason.Of(why).Status}, far: why}
		if notSent {
			a.told.NotProcessed = string(why)
		}
		return a
	}
	const noRepairs = "no repairs left"

	tests := map[string]struct {
		attempt *attempt
		policy  *wire.Policy
		method  string // GET unless it says so
		grpc    bool
		spent   string
		want    step
	}{
		"refused connection":                         {attempt: failure(upstream.ReasonConnect, true), policy: none, want: stepRepair},
		"refused connection, POST":                   {attempt: failure(upstream.ReasonConnect, true), policy: none, method: "POST", want: stepRepair},
		"refused connection, no repairs":             {attempt: failure(upstream.ReasonConnect, true), policy: none, spent: noRepairs, want: stepRetry},
		"refused connection, no repairs, POST":       {attempt: failure(upstream.ReasonConnect, true), policy: none, method: "POST", spent: noRepairs, want: stepRetry},
		"connect timeout, POST":                      {attempt: failure(upstream.ReasonConnectTimeout, true), policy: none, method: "POST", want: stepRepair},
		"no certificate, POST":                       {attempt: failure(upstream.ReasonIdentity, true), policy: none, method: "POST", want: stepRepair},
		"refused stream, POST":                       {attempt: failure(upstream.ReasonRefused, true), policy: none, method: "POST", want: stepRepair},
		"idle connection closed":                     {attempt: failure(upstream.ReasonStale, false), policy: none, want: stepRepair},
		"idle connection closed, no repairs":         {attempt: failure(upstream.ReasonStale, false), policy: none, spent: noRepairs, want: stepRetry},
		"idle connection closed, POST":               {attempt: failure(upstream.ReasonStale, false), policy: none, method: "POST", want: stepConclude},
		"idle connection closed before a byte, POST": {attempt: failure(upstream.ReasonStale, true), policy: none, method: "POST", want: stepRepair},
		"reset":        {attempt: failure(upstream.ReasonReset, false), policy: none, want: stepRetry},
		"reset, PUT":   {attempt: failure(upstream.ReasonReset, false), policy: none, method: "PUT", want: stepRetry},
		"reset, POST":  {attempt: failure(upstream.ReasonReset, false), policy: none, method: "POST", want: stepConclude},
		"reset, PATCH": {attempt: failure(upstream.ReasonReset, false), policy: none, method: "PATCH", want: stepConclude},
		"reset, POST, 502 for idempotent methods":     {attempt: failure(upstream.ReasonReset, false), policy: idempotentOnly, method: "POST", want: stepConclude},
		"reset, POST, 502 for all":                    {attempt: failure(upstream.ReasonReset, false), policy: all, method: "POST", want: stepRetry},
		"reset, POST, only 500 listed":                {attempt: failure(upstream.ReasonReset, false), policy: only500, method: "POST", want: stepConclude},
		"reset, unknown method":                       {attempt: failure(upstream.ReasonReset, false), policy: none, method: "BREW", want: stepConclude},
		"answer that is not HTTP":                     {attempt: failure(upstream.ReasonProtocol, false), policy: none, want: stepRetry},
		"answer that is not HTTP, POST":               {attempt: failure(upstream.ReasonProtocol, false), policy: none, method: "POST", want: stepConclude},
		"try timed out":                               {attempt: slow(false), policy: none, want: stepRetry},
		"try timed out, POST":                         {attempt: slow(false), policy: none, method: "POST", want: stepConclude},
		"try timed out, POST, 504 for all":            {attempt: slow(false), policy: all, method: "POST", want: stepRetry},
		"try timed out, POST, only 500 listed":        {attempt: slow(false), policy: only500, method: "POST", want: stepConclude},
		"try timed out while connecting, POST":        {attempt: slow(true), policy: none, method: "POST", want: stepRepair},
		"client's body broke":                         {attempt: failure(upstream.ReasonRequestBody, false), policy: all, want: stepConclude},
		"request that cannot be sent":                 {attempt: failure(upstream.ReasonRequest, true), policy: all, want: stepConclude},
		"200":                                         {attempt: response(200), policy: all, want: stepConclude},
		"404":                                         {attempt: response(404), policy: all, want: stepConclude},
		"500, nothing listed":                         {attempt: response(500), policy: none, want: stepConclude},
		"500":                                         {attempt: response(500), policy: idempotentOnly, want: stepRetry},
		"500, POST":                                   {attempt: response(500), policy: idempotentOnly, method: "POST", want: stepConclude},
		"500, POST, for all":                          {attempt: response(500), policy: all, method: "POST", want: stepRetry},
		"503, only 500 listed":                        {attempt: response(503), policy: only500, want: stepConclude},
		"gRPC UNAVAILABLE":                            {attempt: call(phttp.GRPCUnavailable), policy: unavailable, grpc: true, method: "POST", want: stepRetry},
		"gRPC UNAVAILABLE, nothing listed":            {attempt: call(phttp.GRPCUnavailable), policy: all, grpc: true, method: "POST", want: stepConclude},
		"gRPC INTERNAL":                               {attempt: call(phttp.GRPCInternal), policy: unavailable, grpc: true, method: "POST", want: stepConclude},
		"gRPC OK":                                     {attempt: call(phttp.GRPCOK), policy: unavailable, grpc: true, method: "POST", want: stepConclude},
		"gRPC reset amounts to UNAVAILABLE":           {attempt: failure(upstream.ReasonReset, false), policy: unavailable, grpc: true, method: "POST", want: stepRetry},
		"gRPC timeout amounts to DEADLINE_EXCEEDED":   {attempt: slow(false), policy: unavailable, grpc: true, method: "POST", want: stepConclude},
		"gRPC codes are not for HTTP":                 {attempt: failure(upstream.ReasonReset, false), policy: unavailable, method: "POST", want: stepConclude},
		"backend has as many as it may, 503 listed":   {attempt: failure(upstream.ReasonFull, true), policy: all, want: stepConclude},
		"instance has as many as it may, POST":        {attempt: failure(upstream.ReasonEndpointFull, true), policy: none, method: "POST", want: stepRepair},
		"far: circuit open":                           {attempt: far(reason.CircuitOpen, true), policy: none, want: stepConclude},
		"far: circuit open, 503 listed, POST":         {attempt: far(reason.CircuitOpen, true), policy: idempotentOnly, method: "POST", want: stepRetry},
		"far: no healthy endpoints":                   {attempt: far(reason.NoHealthyEndpoints, true), policy: none, want: stepConclude},
		"far: no healthy endpoints, 503 listed":       {attempt: far(reason.NoHealthyEndpoints, true), policy: idempotentOnly, want: stepRetry},
		"no endpoints":                                {attempt: &attempt{why: reason.NoEndpoints}, policy: none, want: stepConclude},
		"no endpoints, 503 listed":                    {attempt: &attempt{why: reason.NoEndpoints}, policy: all, want: stepConclude},
		"unknown backend, 500 listed":                 {attempt: &attempt{why: reason.UnknownBackend}, policy: all, want: stepConclude},
		"no time left, 504 listed":                    {attempt: &attempt{why: reason.DeadlineExceeded}, policy: all, want: stepConclude},
		"far: could not connect":                      {attempt: far(reason.Connect, true), policy: none, want: stepRetry},
		"far: could not connect, POST":                {attempt: far(reason.Connect, true), policy: none, method: "POST", want: stepRetry},
		"far: could not connect after a reset, POST":  {attempt: far(reason.Connect, false), policy: none, method: "POST", want: stepConclude},
		"far: refused by all, POST":                   {attempt: far(reason.NotProcessed, true), policy: none, method: "POST", want: stepRetry},
		"far: reset":                                  {attempt: far(reason.ResetBeforeHeaders, false), policy: none, want: stepRetry},
		"far: reset, POST":                            {attempt: far(reason.ResetBeforeHeaders, false), policy: none, method: "POST", want: stepConclude},
		"far: reset, POST, 502 for idempotent":        {attempt: far(reason.ResetBeforeHeaders, false), policy: idempotentOnly, method: "POST", want: stepConclude},
		"far: reset, POST, 502 for all":               {attempt: far(reason.ResetBeforeHeaders, false), policy: all, method: "POST", want: stepRetry},
		"far: answer that is not HTTP, POST":          {attempt: far(reason.Protocol, false), policy: none, method: "POST", want: stepConclude},
		"far: no endpoints":                           {attempt: far(reason.NoEndpoints, true), policy: none, want: stepConclude},
		"far: no endpoints, 503 listed, POST":         {attempt: far(reason.NoEndpoints, true), policy: idempotentOnly, method: "POST", want: stepRetry},
		"far: deadline exceeded, 504 listed":          {attempt: far(reason.DeadlineExceeded, false), policy: all, want: stepConclude},
		"far: bad request":                            {attempt: far(reason.BadRequest, true), policy: all, want: stepConclude},
		"far: cannot be sent, 502 listed":             {attempt: far(reason.Unsendable, true), policy: all, want: stepConclude},
		"far: rate limited":                           {attempt: far(reason.RateLimited, true), policy: none, want: stepConclude},
		"far: rate limited, 429 listed, POST":         {attempt: far(reason.RateLimited, true), policy: idempotentOnly, method: "POST", want: stepRetry},
		"far: reason of a later version":              {attempt: far("tired", false), policy: idempotentOnly, want: stepRetry},
		"far: reason of a later version, POST":        {attempt: far("tired", false), policy: idempotentOnly, method: "POST", want: stepConclude},
		"far: gRPC, could not connect, none listed":   {attempt: far(reason.Connect, true), policy: none, grpc: true, method: "POST", want: stepRetry},
		"far: gRPC, reset, none listed":               {attempt: far(reason.ResetBeforeHeaders, false), policy: none, grpc: true, method: "POST", want: stepConclude},
		"far: gRPC, no endpoints, UNAVAILABLE listed": {attempt: withCode(far(reason.NoEndpoints, true), phttp.GRPCUnavailable), policy: unavailable, grpc: true, method: "POST", want: stepRetry},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			x := &exchange{grpc: tc.grpc, policy: tc.policy}
			method := tc.method
			if method == "" {
				method = http.MethodGet
			}
			repairs := *tc.policy.Retry.ConnectFailures
			if tc.spent == noRepairs {
				repairs = 0
			}
			o := (&tries{exchange: x}).outcome(tc.attempt)
			if got := next(o, method, tc.policy.Retry, repairs, 1); got != tc.want {
				t.Errorf("next = %v, want %v", got, tc.want)
			}
			if got := next(o, method, tc.policy.Retry, 0, 0); got != stepConclude {
				t.Errorf("with nothing left next = %v", got)
			}
		})
	}
}

func withCode(a *attempt, code phttp.GRPCCode) *attempt {
	a.code = code
	return a
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		header, trailer http.Header
		want            time.Duration
	}{
		"none":                   {want: 0},
		"seconds":                {header: http.Header{"Retry-After": {"7"}}, want: 7 * time.Second},
		"zero":                   {header: http.Header{"Retry-After": {"0"}}, want: 0},
		"more than there is":     {header: http.Header{"Retry-After": {"99999999999999999999"}}, want: 9223372036 * time.Second},
		"a date":                 {header: http.Header{"Retry-After": {"Sun, 01 Mar 2026 12:00:30 GMT"}}, want: 30 * time.Second},
		"a date of RFC 850":      {header: http.Header{"Retry-After": {"Sunday, 01-Mar-26 12:00:05 GMT"}}, want: 5 * time.Second},
		"a date that has passed": {header: http.Header{"Retry-After": {"Sun, 01 Mar 2026 11:00:00 GMT"}}, want: 0},
		"nonsense":               {header: http.Header{"Retry-After": {"soon"}}, want: 0},
		"negative":               {header: http.Header{"Retry-After": {"-7"}}, want: 0},
		"gRPC trailer":           {trailer: http.Header{"Grpc-Retry-Pushback-Ms": {"250"}}, want: 250 * time.Millisecond},
		"gRPC header": {
			header: http.Header{"Grpc-Retry-Pushback-Ms": {"250"}, "Retry-After": {"7"}}, want: 250 * time.Millisecond,
		},
		"gRPC, never again": {trailer: http.Header{"Grpc-Retry-Pushback-Ms": {"-1"}}, want: -time.Millisecond},
		"gRPC, no number":   {trailer: http.Header{"Grpc-Retry-Pushback-Ms": {"soon"}}, want: -time.Millisecond},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := retryAfter(&http.Response{Header: tc.header, Trailer: tc.trailer}, now); got != tc.want {
				t.Errorf("retryAfter = %s, want %s", got, tc.want)
			}
		})
	}
}

func TestWaitBeforeARetry(t *testing.T) {
	policy := func(base, most, longest time.Duration) *wire.Policy {
		return effective(&wire.Policy{Retry: &wire.Retry{
			Attempts: new(10), Backoff: new(wire.Duration(base)), MaxBackoff: new(wire.Duration(most)),
			MaxRetryAfter: new(wire.Duration(longest)),
		}})
	}
	asks := func(name, value string) http.Header { return http.Header{name: {value}} }
	tests := map[string]struct {
		policy *wire.Policy
		done   int
		asked  http.Header
		// least and most of the wait; a negative most means that there must be no retry.
		least, most time.Duration
	}{
		"the first":                     {policy: policy(100, 1000, 0), least: 100, most: 150},
		"the second":                    {policy: policy(100, 1000, 0), done: 1, least: 200, most: 300},
		"the third":                     {policy: policy(100, 1000, 0), done: 2, least: 400, most: 600},
		"up to the most":                {policy: policy(100, 1000, 0), done: 9, least: 1000, most: 1500},
		"a base beyond the most":        {policy: policy(2000, 1000, 0), done: 3, least: 2000, most: 3000},
		"no base":                       {policy: policy(0, 1000, 0), done: 3, least: 0, most: 0},
		"what the backend asks for":     {policy: policy(100, 1000, time.Minute), asked: asks("Retry-After", "2"), least: 2 * time.Second, most: 2 * time.Second},
		"the backoff if it is longer":   {policy: policy(time.Second, time.Second, time.Minute), asked: asks("Grpc-Retry-Pushback-Ms", "20"), least: time.Second, most: 1500 * time.Millisecond},
		"not more than is allowed":      {policy: policy(100, 1000, time.Second), asked: asks("Retry-After", "2"), most: -1},
		"what is asked for is ignored":  {policy: policy(100, 1000, 0), asked: asks("Retry-After", "2"), least: 100, most: 150},
		"a backend that wants no retry": {policy: policy(100, 1000, 0), asked: asks("Grpc-Retry-Pushback-Ms", "-1"), most: -1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for range 100 {
				a := &attempt{}
				if tc.asked != nil {
					a.response = &http.Response{Header: tc.asked}
				}
				got, ok := (&tries{exchange: &exchange{policy: tc.policy}, retries: 10 - tc.done}).retryWait(a)
				if ok != (tc.most >= 0) || ok && (got < tc.least || got > tc.most) {
					t.Fatalf("wait = %s, %t, want %s to %s", got, ok, tc.least, tc.most)
				}
			}
		})
	}
}
