// Package arch_test holds the repository to its design: which package may import which, and what every
// file must look like. It owns no rule of its own; the rules are those of the design.
package arch_test
