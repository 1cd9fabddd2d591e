package upstream

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzReadAnswer checks that only an answer that accepts lets bytes of the application follow.
func FuzzReadAnswer(f *testing.F) {
	for _, seed := range []string{"\x00\x00", "\x01\x04full", "\x01\x09cut", "\x02\x00", "", "\x00\x02ok"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		err := readAnswer(bytes.NewReader(answer))
		if accepted := len(answer) >= 2 && answer[0] == answerAccept && len(answer) >= 2+int(answer[1]); (err == nil) != accepted {
			t.Errorf("%q is read as %v", answer, err)
		}
		if rejected := errors.Is(err, errRejected); rejected && answer[0] != answerReject {
			t.Errorf("%q is read as a rejection", answer)
		}
	})
}
