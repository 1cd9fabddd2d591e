// Package trace owns spans: the context that requests carry them in, their form in OpenTelemetry's protocol (OTLP),
// and their way to the collector. It decides nothing about requests and does not know what spans tell.
//
// Nothing of it delays a request: a span that has ended is encoded and kept within a bound, and what finds no room, or
// what the collector does not take in time, is dropped and counted. It is written by hand rather than on
// OpenTelemetry's SDK, see docs/adr.
package trace
