//go:build e2e

// Reserved: written at this moment beside the rest (under load, restarts, capture, node loss).
package e2e
