// Package infra owns what Weft deploys into an enrolled namespace: the proxies and what they need to
// run. Which objects those are is a pure function of a few parameters (Objects); Applier makes it so
// and is the only part that talks to the API server. The package must not decide who is enrolled or
// when a namespace has drained.
package infra
