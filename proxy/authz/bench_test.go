package authz_test

import (
	"fmt"
	"testing"

	"weft.dev/weft/proxy/authz"
	"weft.dev/weft/proxy/wire"
)

// BenchmarkDecide is what a request costs that the last of all policies of its namespace allows.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			var compiled []*authz.Policy
			for i := range n {
				rule := wire.AuthorizationRule{From: []wire.AuthorizationSource{account("bank", "other")}}
				if i == n-1 {
					rule = wire.AuthorizationRule{
						From: []wire.AuthorizationSource{account("bank", "teller")},
						To:   []wire.AuthorizationOperation{paths(wire.PathPrefix, "/orders")},
					}
				}
				p, err := authz.Compile(allow(fmt.Sprintf("p%03d", i), rule))
				if err != nil {
					b.Fatal(err)
				}
				compiled = append(compiled, p)
			}
			all, r := authz.NewPolicies(compiled), request(at("/orders/1"))
			b.ReportAllocs()
			for b.Loop() {
				if all.Decide(r).Verdict != authz.Allowed {
					b.Fatal("it is not allowed")
				}
			}
		})
	}
}
