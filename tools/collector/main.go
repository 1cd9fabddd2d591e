// Command collector is a collector of traces for tests: the receiver for OTLP of the OpenTelemetry Collector, which
// prints what it gets. It is a module of its own, because nothing else of Weft needs what it is made of.
//
//	collector [-grpc ADDRESS -http ADDRESS]
//
// It takes traces over gRPC and HTTP, and writes to standard output first "listening GRPC HTTP", with the two addresses,
// and then each batch of spans as one line of OTLP's JSON. Without addresses it listens on loopback and ends when
// standard input does; with them it ends at SIGTERM.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx := context.Background()
	factory := otlpreceiver.NewFactory()
	grpc, http := flag.String("grpc", "", "address of OTLP over gRPC"), flag.String("http", "", "address of OTLP over HTTP")
	flag.Parse()
	own := *grpc == "" && *http == ""
	if own {
		*grpc, *http = free(), free()
	}
	config := factory.CreateDefaultConfig()
	err := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{
		"grpc": map[string]any{"endpoint": *grpc},
		"http": map[string]any{"endpoint": *http},
	}}).Unmarshal(config)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	var mu sync.Mutex
	say := func(text string) error {
		mu.Lock()
		defer mu.Unlock()
		_, _ = out.WriteString(text + "\n")
		return out.Flush()
	}
	marshaler := ptrace.JSONMarshaler{}
	sink, err := consumer.NewTraces(func(_ context.Context, traces ptrace.Traces) error {
		data, err := marshaler.MarshalTraces(traces)
		if err != nil {
			return err
		}
		return say(string(data))
	})
	if err != nil {
		return err
	}
	r, err := factory.CreateTraces(ctx, receivertest.NewNopSettings(factory.Type()), config, sink)
	if err != nil {
		return err
	}
	if err := r.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	if err := say("listening " + *grpc + " " + *http); err != nil {
		return err
	}
	if own {
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
	} else {
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		<-ended
	}
	return r.Shutdown(ctx)
}

// free returns an address that nobody listens on.
func free() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
