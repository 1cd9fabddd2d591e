package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/nethttp"
)

var compareAddresses = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

var fullMetadata = Metadata{
	Backend: "bank/ledger:8080", TimeLeft: 1500 * time.Millisecond, StreamTimeLeft: time.Hour, Attempt: 2, Zone: "eu-west-1a", Node: "node-1.example",
	Client:  netip.MustParseAddrPort("10.1.2.3:4567"),
	Avoid:   []netip.AddrPort{netip.MustParseAddrPort("10.1.2.4:80"), netip.MustParseAddrPort("[fd00::1]:80")},
	Session: "Zm9v-_bar",
}

func TestMetadataArrivesAsSent(t *testing.T) {
	many := make([]netip.AddrPort, MaxAvoid+3)
	for i := range many {
		many[i] = netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i+1))
	}
	for name, tc := range map[string]struct{ sent, want Metadata }{
		"all":          {fullMetadata, fullMetadata},
		"only the key": {Metadata{Backend: "a/b:1"}, Metadata{Backend: "a/b:1"}},
		"too much to avoid": {
			Metadata{Backend: "a/b:1", Avoid: many}, Metadata{Backend: "a/b:1", Avoid: many[:MaxAvoid]},
		},
		"less than a millisecond left": {
			Metadata{Backend: "a/b:1", TimeLeft: time.Microsecond}, Metadata{Backend: "a/b:1", TimeLeft: time.Millisecond},
		},
		"more time left than anybody waits": {
			Metadata{Backend: "a/b:1", TimeLeft: 1 << 62}, Metadata{Backend: "a/b:1", TimeLeft: maxTimeLeft},
		},
		"absurd attempt, zone, node and session": {
			Metadata{Backend: "a/b:1", Attempt: 1 << 30, Zone: "a,b", Node: "a_b", Session: "a b"}, Metadata{Backend: "a/b:1", Attempt: MaxAttempt},
		},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{"Accept": {"x"}, FieldZone: {"forged"}, "weft-other": {"forged"}}
			SetMetadata(header, tc.sent)
			got, err := ReadMetadata(nethttp.Fields(header))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, compareAddresses); diff != "" {
				t.Errorf("HTTP (-want +got):\n%s", diff)
			}
			StripMetadata(header)
			if diff := cmp.Diff(http.Header{"Accept": {"x"}}, header); diff != "" {
				t.Errorf("after stripping (-want +got):\n%s", diff)
			}

			var wire bytes.Buffer
			if err := WritePreface(&wire, tc.sent); err != nil {
				t.Fatal(err)
			}
			wire.WriteString("opaque")
			if got, err = ReadPreface(&wire); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, compareAddresses); diff != "" {
				t.Errorf("preface (-want +got):\n%s", diff)
			}
			if rest := wire.String(); rest != "opaque" {
				t.Errorf("left after the preface: %q", rest)
			}
		})
	}
}

func TestInvalidMetadataIsRefused(t *testing.T) {
	address := "10.0.0.1:80"
	for name, fields := range map[string]http.Header{
		"none":               {},
		"no backend":         {FieldZone: {"a"}},
		"empty backend":      {FieldBackend: {""}},
		"odd backend":        {FieldBackend: {"a/b:1\x00"}},
		"long backend":       {FieldBackend: {strings.Repeat("a", MaxBackendKey+1)}},
		"two backends":       {FieldBackend: {"a/b:1", "a/c:1"}},
		"no time left":       {FieldBackend: {"a/b:1"}, FieldTimeLeft: {"0"}},
		"negative time left": {FieldBackend: {"a/b:1"}, FieldTimeLeft: {"-5"}},
		"signed time left":   {FieldBackend: {"a/b:1"}, FieldTimeLeft: {"+5"}},
		"endless time left":  {FieldBackend: {"a/b:1"}, FieldTimeLeft: {"99999999999999999"}},
		"no stream time":     {FieldBackend: {"a/b:1"}, FieldStreamTimeLeft: {"0"}},
		"attempt":            {FieldBackend: {"a/b:1"}, FieldAttempt: {"1e3"}},
		"too many attempts":  {FieldBackend: {"a/b:1"}, FieldAttempt: {"1001"}},
		"zone":               {FieldBackend: {"a/b:1"}, FieldZone: {"a b"}},
		"long zone":          {FieldBackend: {"a/b:1"}, FieldZone: {strings.Repeat("a", MaxZone+1)}},
		"node":               {FieldBackend: {"a/b:1"}, FieldNode: {"a_b"}},
		"long node":          {FieldBackend: {"a/b:1"}, FieldNode: {strings.Repeat("a", MaxNode+1)}},
		"client":             {FieldBackend: {"a/b:1"}, FieldClient: {"10.0.0.1"}},
		"client with zone":   {FieldBackend: {"a/b:1"}, FieldClient: {"[fe80::1%eth0]:80"}},
		"avoid":              {FieldBackend: {"a/b:1"}, FieldAvoid: {address + ",x"}},
		"nothing to avoid":   {FieldBackend: {"a/b:1"}, FieldAvoid: {""}},
		"empty session":      {FieldBackend: {"a/b:1"}, FieldSession: {""}},
		"odd session":        {FieldBackend: {"a/b:1"}, FieldSession: {"a;b"}},
		"long session":       {FieldBackend: {"a/b:1"}, FieldSession: {strings.Repeat("a", MaxSession+1)}},
		"much to avoid":      {FieldBackend: {"a/b:1"}, FieldAvoid: {strings.Repeat(address+",", MaxAvoid) + address}},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := ReadMetadata(nethttp.Fields(fields)); !errors.Is(err, ErrMetadata) {
				t.Errorf("read %+v, %v", m, err)
			}
		})
	}
}

func TestOutcomeArrivesAsSent(t *testing.T) {
	many := make([]netip.AddrPort, MaxAvoid+3)
	for i := range many {
		many[i] = netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i+1))
	}
	for name, tc := range map[string]struct{ sent, want Outcome }{
		"nothing":       {},
		"one pod":       {Outcome{Tried: many[:1]}, Outcome{Tried: many[:1]}},
		"too many pods": {Outcome{Tried: many}, Outcome{Tried: many[3:]}},
		"not processed": {Outcome{NotProcessed: "why", Tried: many[:2]}, Outcome{NotProcessed: "why", Tried: many[:2]}},
	} {
		t.Run(name, func(t *testing.T) {
			fields := phttp.Header{{Name: "Accept", Value: "x"}, {Name: FieldEndpoint, Value: "10.9.9.9:1"}, {Name: FieldNotProcessed, Value: "stale"}}
			SetOutcome(&fields, tc.sent)
			header := nethttp.Header(fields)
			if diff := cmp.Diff(tc.want, TakeOutcome(header), compareAddresses); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(http.Header{"Accept": {"x"}}, header); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidOutcomeIsAbsentAndRemoved(t *testing.T) {
	for name, header := range map[string]http.Header{
		"no address":    {FieldEndpoint: {"x"}},
		"half a list":   {FieldEndpoint: {"10.0.0.1:80,"}},
		"two fields":    {FieldEndpoint: {"10.0.0.1:80", "10.0.0.2:80"}, FieldNotProcessed: {"a", "b"}},
		"too many":      {FieldEndpoint: {strings.Repeat("10.0.0.1:80,", MaxAvoid) + "10.0.0.1:80"}},
		"endless":       {FieldEndpoint: {strings.Repeat("1", 1<<20)}},
		"empty":         {FieldEndpoint: {""}, FieldNotProcessed: {""}},
		"address alone": {FieldEndpoint: {"10.0.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(Outcome{}, TakeOutcome(header), compareAddresses); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(header) > 0 {
				t.Errorf("left behind: %v", header)
			}
		})
	}
}

func TestInvalidPrefaceIsRefused(t *testing.T) {
	var whole bytes.Buffer
	if err := WritePreface(&whole, fullMetadata); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		data string
		want error
	}{
		"HTTP":             {"GET / HTTP/1.1\r\n\r\n", ErrMetadata},
		"too long":         {"WEFT\xff\xff" + strings.Repeat("a", 1<<16), ErrMetadata},
		"empty":            {"WEFT\x00\x00", ErrMetadata},
		"half a field":     {"WEFT\x00\x02\x01\x00", ErrMetadata},
		"field too long":   {"WEFT\x00\x04\x01\x00\x05a", ErrMetadata},
		"two backends":     {"WEFT\x00\x10\x01\x00\x05a/b:1\x01\x00\x05a/b:1", ErrMetadata},
		"only unknown":     {"WEFT\x00\x04\xff\x00\x01a", ErrMetadata},
		"nothing":          {"", io.EOF},
		"ends in header":   {"WEF", io.ErrUnexpectedEOF},
		"ends in the body": {whole.String()[:whole.Len()-1], io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := ReadPreface(strings.NewReader(tc.data)); !errors.Is(err, tc.want) {
				t.Errorf("read %+v, %v, want %v", m, err, tc.want)
			}
		})
	}
	if err := WritePreface(io.Discard, Metadata{Backend: strings.Repeat("a", 1<<17)}); !errors.Is(err, ErrMetadata) {
		t.Errorf("wrote a preface of any length: %v", err)
	}
}

func TestPrefaceOfALaterVersionIsUnderstood(t *testing.T) {
	got, err := ReadPreface(strings.NewReader("WEFT\x00\x0d\x01\x00\x05a/b:1\x2a\x00\x02zz"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Metadata{Backend: "a/b:1"}, got, compareAddresses); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnswersToPreface(t *testing.T) {
	for name, tc := range map[string]struct {
		write func(io.Writer) error
		want  string // of the error; empty if accepted
	}{
		"accept":      {WriteAccept, ""},
		"reject":      {func(w io.Writer) error { return WriteReject(w, "who?") }, `not processed: "who?"`},
		"long reason": {func(w io.Writer) error { return WriteReject(w, strings.Repeat("a", 999)) }, strings.Repeat("a", 255) + `"`},
		"nonsense":    {func(w io.Writer) error { _, err := w.Write([]byte{7, 0}); return err }, "is 7"},
		"nothing":     {func(io.Writer) error { return nil }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			var wire bytes.Buffer
			if err := tc.write(&wire); err != nil {
				t.Fatal(err)
			}
			err := readAnswer(&wire)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzReadPreface(f *testing.F) {
	var seed bytes.Buffer
	if err := WritePreface(&seed, fullMetadata); err != nil {
		f.Fatal(err)
	}
	f.Add(seed.Bytes())
	f.Add([]byte("WEFT\x00\x08\x01\x00\x05a/b:1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ReadPreface(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WritePreface(&again, m); err != nil {
			t.Fatalf("%+v cannot be written: %v", m, err)
		}
		got, err := ReadPreface(&again)
		if err != nil {
			t.Fatalf("%+v cannot be read back: %v", m, err)
		}
		if diff := cmp.Diff(m, got, compareAddresses); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}

func FuzzReadMetadata(f *testing.F) {
	f.Add("a/b:1", "1500", "60000", "2", "zone", "10.0.0.1:1", "10.0.0.1:1,[::1]:2", "a-b")
	f.Add("", "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, backend, timeLeft, streamTimeLeft, attempt, zone, client, avoid, session string) {
		header := http.Header{}
		for name, value := range map[string]string{
			FieldBackend: backend, FieldTimeLeft: timeLeft, FieldStreamTimeLeft: streamTimeLeft, FieldAttempt: attempt,
			FieldZone: zone, FieldClient: client, FieldAvoid: avoid, FieldSession: session,
		} {
			if value != "" {
				header[name] = []string{value}
			}
		}
		m, err := ReadMetadata(nethttp.Fields(header))
		if err != nil {
			return
		}
		if len(m.Avoid) > MaxAvoid || len(m.Backend) > MaxBackendKey || m.TimeLeft < 0 {
			t.Errorf("out of bounds: %+v", m)
		}
		again := http.Header{}
		SetMetadata(again, m)
		got, err := ReadMetadata(nethttp.Fields(again))
		if err != nil {
			t.Fatalf("%+v cannot be read back: %v", m, err)
		}
		if diff := cmp.Diff(m, got, compareAddresses); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}
