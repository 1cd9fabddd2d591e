//go:build !unix

package h2

import "errors"

const writesAtOnce = false

func writeSocket(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
