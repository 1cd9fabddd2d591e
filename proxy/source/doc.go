// Package source brings configuration to a proxy or node agent: from the operator's stream (Stream),
// from what an earlier process saved (Cache), or from files (Files). It owns which versions are held and
// keeps the last good state through every failure; what is in force is always a state that the operator
// published, less what was rejected.
//
// It must not look into the content of resources nor decide what they do: deltas go to one Apply
// function, one at a time. It must not use Kubernetes packages, and it never gives its token to a server
// that it has not verified.
package source
