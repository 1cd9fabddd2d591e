//go:build race

package engine

// raceEnabled tells that the race detector allocates too.
const raceEnabled = true
