// Package webhooks answers the API server's question whether an object makes sense, before it is stored: it
// refuses what can never work and that the schemas cannot say, and warns of what is accepted and has no
// effect. Nothing depends on it. The webhook is registered with failurePolicy Ignore: compile validates
// everything again and keeps what was valid before in force, so that an API server that does not reach this
// operator must not keep anybody from changing an object.
//
// Validation is a pure function (Validate), and its judgement is compile's own: the snapshot is compiled with
// the object in place, and what compile has to say about exactly that object is the answer. So what a user
// is told at once and what the status says later are never at odds. Of the snapshot only that part is read and
// compiled which decides about the object (readPart), found by indexes of the cache. So an answer costs what has to
// do with the object, however large the mesh is.
//
// Whoever reaches the port can ask, as is usual for webhooks, since API servers do not authenticate
// themselves to them: the answer tells whether a Service exists and which routes it has. It costs a bounded
// amount of memory and time, and nothing is ever written because of it.
package webhooks
