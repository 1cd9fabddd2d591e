// Package h2 is Weft's own HTTP/2 (RFC 9113): a connection of a client, which is served, and one to a backend or to
// another proxy, on which requests are sent.
//
// Each connection has one goroutine that reads. It acts on frames at once and never waits for anything but the next
// frame: what it has to write goes into memory, from which it is sent without waiting, or by a goroutine that exists
// as long as the socket is full. So two proxies whose sockets to each other are full go on reading. An exchange is
// blocking code in a goroutine of its own, which writes frames itself: they are collected while somebody writes, so
// that frames of many streams leave with one call.
//
// Memory is bounded everywhere: bodies by the windows, which are opened as bytes are taken by who reads them, heads
// and the frames that a peer makes us send by budgets. A peer that exceeds one is told to calm down, and loses its
// connection.
//
// Parsing of frames and compression of fields are those of golang.org/x/net. Messages are values of proxy/http;
// adapters make net/http's of them where the engine needs those. Names of fields are in lower case, as they are
// received.
//
// The package must not decide anything about routes, policies or retries, and reads no configuration.
package h2
