// Package gitops holds what tools that apply and wait make of the statuses of Weft's objects: Argo CD by the snippet in
// examples/argocd, Flux, Helm and kubectl's own successors by the library kstatus.
package gitops
