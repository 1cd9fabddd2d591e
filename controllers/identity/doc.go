// Package identity owns the mesh's certificate authority and the certificates of its workloads: which
// ServiceAccounts need one, when it is renewed, and the Secrets it is kept in. Deciding is pure
// (Desired); only LoadCA and Issuer talk to the API server. The package must not know routes, proxies
// or streams: whoever distributes certificates takes them from Issuer's result.
package identity
