// Package capture is the node agent: it keeps the rules of every pod on its node as the operator wants
// them, from before a pod's first container starts until the pod ends, probes the proxies that the pods
// use, and reports which pods run and whether they are captured.
//
// It decides when and for whom; package rules says which rules, package kernel brings them into force,
// and a container runtime (package nri, or whoever calls Start, Stop and Synchronize) tells which pods
// there are. It must not use Kubernetes packages, must not delay or refuse a pod, and persists nothing:
// the rules in force outlive the agent and are taken over by the next one.
package capture
