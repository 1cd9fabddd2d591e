//go:build race

package h1

// mostAllocations is how many allocations forwarding a request may take: with the race detector, pools lose what
// they are given at random.
const mostAllocations = 6
