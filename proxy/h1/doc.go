// Package h1 is Weft's own HTTP/1.1: a strict parser and writer of heads and bodies, the loop that serves a
// client's connection, and the use of a connection to a backend.
//
// It accepts one way of writing a message and no other, because a proxy and an application that read the
// same bytes differently let a request hide in another one (request smuggling). What it refuses is listed
// with the clause of the RFC at each error in errors.go. What it accepts is passed on with the bytes of its
// fields unchanged and in their order; framing (Content-Length, Transfer-Encoding, Connection, chunks) is
// always written anew.
//
// One goroutine serves a connection of a client and owns the connection to the backend meanwhile. Strings of
// a parsed head are never overwritten and may be kept.
//
// The package must not decide anything about routes, policies or retries, and reads no configuration.
// Messages are values of proxy/http; adapters make net/http's of them where the engine needs those.
package h1
