//go:build !race

package h1

// mostAllocations is how many allocations forwarding a request may take.
const mostAllocations = 0
