// Package e2e holds the end-to-end tests: Weft as a user installs it, on a real cluster, judged by what
// requests experience and what statuses say. They need the local cluster with Weft on it and the build
// tag e2e; `make e2e` provides both. Each test has Services, and where it disturbs others also namespaces,
// of its own. Tests that disturb the whole mesh are not parallel, so that they run alone.
package e2e
