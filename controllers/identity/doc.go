// Package identity owns the mesh's certificate authority and the certificates of its workloads: which
// ServiceAccounts need one, when it is renewed, and the Secrets it is kept in; and when intermediate and
// root are exchanged. Deciding is pure (Desired, Authority.Decide); only Keeper and Issuer talk to the API
// server. The package must not know routes, proxies or streams: whoever distributes certificates takes them
// from Issuer's result.
package identity
