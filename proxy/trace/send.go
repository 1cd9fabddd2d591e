package trace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"weft.dev/weft/proxy/wire"
)

// valid returns text that protobuf takes.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// frame is what goes before each message of gRPC: whether it is compressed, and its length.
const frame = 5

// send hands a request over, once. Failures that may pass are of type transientError.
func (t *target) send(ctx context.Context, request []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	grpc := t.collector.Protocol == wire.CollectorGRPC
	if grpc {
		framed := make([]byte, frame, frame+len(request))
		binary.BigEndian.PutUint32(framed[1:], uint32(len(request)))
		request = append(framed, request...)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(request))
	if err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	req.Header.Set("User-Agent", "weft-proxy/"+wire.Build)
	if grpc {
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("TE", "trailers")
		req.Header.Set("Grpc-Timeout", strconv.Itoa(int(sendTimeout/time.Second))+"S")
	} else {
		req.Header.Set("Content-Type", "application/x-protobuf")
	}
	// Redirects are not followed: who names a collector names where it is.
	res, err := t.transport.RoundTrip(req)
	if err != nil {
		return transientError{error: fmt.Errorf("collector: %w", err)}
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return transientError{error: fmt.Errorf("answer of the collector: %w", err)}
	}
	if grpc {
		return judgeGRPC(res, answer)
	}
	return judgeHTTP(res, answer)
}

// judgeHTTP tells what an answer over HTTP means (OTLP/HTTP response).
func judgeHTTP(res *http.Response, answer []byte) error {
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return partialSuccess(answer)
	}
	err := fmt.Errorf("the collector answers %s", res.Status)
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return transientError{error: err, after: time.Duration(min(max(seconds, 0), 3600)) * time.Second}
	}
	return err
}

// judgeGRPC tells what an answer over gRPC means (OTLP/gRPC response). The status may be in the header if there is no
// message.
func judgeGRPC(res *http.Response, answer []byte) error {
	if res.StatusCode != http.StatusOK {
		return transientError{error: fmt.Errorf("the collector answers %s", res.Status)}
	}
	fields := res.Trailer
	if fields.Get("Grpc-Status") == "" {
		fields = res.Header
	}
	switch code := fields.Get("Grpc-Status"); code {
	case "0":
		if len(answer) < frame || answer[0] != 0 {
			return nil // nothing is said about what was not taken
		}
		return partialSuccess(answer[frame:])
	case "1", "4", "10", "11", "14", "15": // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
		return transientError{error: statusError(fields)}
	default:
		return statusError(fields)
	}
}

func statusErrorText(fields http.Header) string {
	message, err := url.PathUnescape(fields.Get("Grpc-Message"))
	if err != nil {
		message = fields.Get("Grpc-Message")
	}
	return message
}

func statusError(fields http.Header) error {
	return fmt.Errorf("the collector answers with gRPC status %q: %q", fields.Get("Grpc-Status"), statusErrorText(fields))
}

// partialSuccess reads what an ExportTraceServiceResponse says about spans that were not taken.
func partialSuccess(answer []byte) error {
	var refused refusedError
	// What is wrong with it is as if it were not there: the spans were taken.
	_ = eachField(answer, func(number protowire.Number, kind protowire.Type, value []byte) {
		if number != 1 || kind != protowire.BytesType {
			return
		}
		partial, _ := protowire.ConsumeBytes(value)
		_ = eachField(partial, func(number protowire.Number, kind protowire.Type, value []byte) {
			switch {
			case number == 1 && kind == protowire.VarintType:
				n, _ := protowire.ConsumeVarint(value)
				refused.spans = int64(n)
			case number == 2 && kind == protowire.BytesType:
				why, _ := protowire.ConsumeBytes(value)
				refused.why = string(why)
			}
		})
	})
	if refused.spans > 0 {
		return refused
	}
	return nil
}

var errMalformed = errors.New("not protobuf")

// eachField passes each field of a message on.
func eachField(message []byte, field func(protowire.Number, protowire.Type, []byte)) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errMalformed
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			return errMalformed
		}
		field(number, kind, message[:size])
		message = message[size:]
	}
	return nil
}
