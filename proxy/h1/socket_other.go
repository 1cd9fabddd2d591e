//go:build !unix

package h1

import "errors"

// polls is false where only kubectl weft run serves, for one person: connections are read as they are.
const polls = false

func readSocket(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func writeSocket(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func peekSocket(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
