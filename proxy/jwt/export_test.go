package jwt

// Remembered returns the length of all tokens that are remembered.
func (v *Verifier) Remembered() int { return v.known.length }
