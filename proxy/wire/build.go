package wire

// Build is the version of this binary, set by the linker; clients send it in Hello.
var Build = "dev"
