// Package feature tests what users see of the mesh: API objects go in, and real requests are answered by
// the pods, and in the way, that the Gateway API says. Everything between is real, see package harness.
//
// A behaviour that can be told by requests and answers is a file in testdata: API objects on top of
// _defaults.yaml, then a document of kind Requests. What needs time, failures or concurrency is Go.
package feature
