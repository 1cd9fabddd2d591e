package upstream

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"weft.dev/weft/proxy/upstream/outlier"
)

// ErrTooSlow is what the cause of a context's end wraps if the policy of this proxy gave the endpoint no more
// time: that counts as the endpoint's failure. Any other end of a context is nobody's fault, neither that of
// a client that goes away nor a deadline that a client has set: else one client with a short one could have
// endpoints ejected for all.
var ErrTooSlow = errors.New("endpoint took too long")

// judge passes on the verdict on a try, at most once.
func (t *try) judge(v outlier.Verdict) {
	if t.judged {
		return
	}
	t.judged = true
	t.set.judged(t.to.state, v, t.took, t.to.probe)
}

// blame tells whether a failure is the endpoint's.
//
// What an application behind a proxy of the hop does must not eject that proxy, which serves others as
// well: only failures of the connection itself count. A stream that the proxy reset is not one of them,
// because that is how it passes on that its application's response broke off.
func (t *try) blame(ctx context.Context, reason Reason, err error) outlier.Verdict {
	if ctx.Err() != nil {
		if t.to.kind != KindHop && errors.Is(context.Cause(ctx), ErrTooSlow) {
			return outlier.Failure
		}
		return outlier.Neutral
	}
	switch reason {
	case ReasonConnect, ReasonConnectTimeout:
		return outlier.Failure
	case ReasonReset, ReasonProtocol:
		if t.to.kind == KindHop && ofStream(err) {
			return outlier.Neutral
		}
		return outlier.Failure
	case ReasonIdentity, ReasonRefused, ReasonStale, ReasonTimeout, ReasonCanceled, ReasonRequestBody, ReasonRequest,
		ReasonFull, ReasonEndpointFull:
		// Either ours, or the endpoint says that it is leaving.
	}
	return outlier.Neutral
}

// judgeHead judges what can be judged when the head of a response is there, and prepares the rest. rpc is the status of a
// gRPC call, as far as the head has it.
func (t *try) judgeHead(status int, rpc string) {
	switch {
	case t.to.kind == KindHop:
		return // the end shows whether the connection held
	case status >= http.StatusInternalServerError, t.grpc && failedGRPC(rpc):
		t.judge(outlier.Failure)
	case status == http.StatusSwitchingProtocols:
		t.judge(outlier.Success)
	}
	if t.to.probe && !t.judged {
		t.set.answered(t.to.state, t.took)
	}
}

// judgeEnd judges a response at its end; err is nil if it is complete, and rpc then the status of a gRPC call in the trailer.
func (t *try) judgeEnd(ctx context.Context, rpc string, err error) {
	switch {
	case t.judged:
	case errors.Is(err, errGivenUp):
		t.judge(outlier.Neutral)
	case err != nil:
		t.judge(t.blame(ctx, ReasonReset, err))
	case t.to.kind != KindHop && t.grpc && failedGRPC(rpc):
		t.judge(outlier.Failure)
	default:
		t.judge(outlier.Success)
	}
}

const fieldGRPCStatus = "Grpc-Status"

// Statuses of gRPC that count as failures (see wire.OutlierEjection).
const (
	grpcUnknown          = 2
	grpcDeadlineExceeded = 4
	grpcInternal         = 13
	grpcUnavailable      = 14
	grpcDataLoss         = 15
)

// failedGRPC tells whether the value of a Grpc-Status field is that of a failure.
func failedGRPC(rpc string) bool {
	if rpc == "" {
		return false
	}
	status, err := strconv.Atoi(rpc)
	if err != nil {
		return false
	}
	switch status {
	case grpcUnknown, grpcDeadlineExceeded, grpcInternal, grpcUnavailable, grpcDataLoss:
		return true
	}
	return false
}
