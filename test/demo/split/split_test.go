package split_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/demo/split"
)

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		declared split.Shares
		counts   split.Counts
		wantErr  string
		wantLine string
	}{
		"exact": {
			declared: split.Declared(90, 10),
			counts:   split.Counts{First: 9000, Second: 1000, Requests: 10000},
			wantLine: "declared=90/10 observed=90.0/10.0 requests=10000 failed=0",
		},
		"just within": {
			declared: split.Declared(50, 50),
			counts:   split.Counts{First: 5200, Second: 4800, Requests: 10000},
			wantLine: "declared=50/50 observed=52.0/48.0 requests=10000 failed=0",
		},
		"off": {
			declared: split.Declared(90, 10),
			counts:   split.Counts{First: 8799, Second: 1201, Requests: 10000},
			wantErr:  "the split is off by 2.0 points",
			wantLine: "declared=90/10 observed=88.0/12.0 requests=10000 failed=0",
		},
		"a request failed": {
			declared: split.Declared(0, 100),
			counts:   split.Counts{Second: 9999, Requests: 10000, Failed: 1},
			wantErr:  "1 of 10000 requests failed",
			wantLine: "declared=0/100 observed=0.0/100.0 requests=10000 failed=1",
		},
		"requests went elsewhere": {
			declared: split.Declared(90, 10),
			counts:   split.Counts{First: 9, Second: 1, Requests: 10000},
			wantErr:  "the backends counted 10 of 10000 requests",
			wantLine: "declared=90/10 observed=90.0/10.0 requests=10000 failed=0",
		},
		"nothing was sent": {
			declared: split.Declared(0, 100),
			wantErr:  "the backends counted 0 of 0 requests",
			wantLine: "declared=0/100 observed=0.0/0.0 requests=0 failed=0",
		},
		"weights that are no percentages": {
			declared: split.Declared(2, 1),
			counts:   split.Counts{First: 2000, Second: 1000, Requests: 3000},
			wantLine: "declared=66.67/33.33 observed=66.7/33.3 requests=3000 failed=0",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := split.Judge(tc.declared, tc.counts); err != nil {
				got = err.Error()
			}
			if got != tc.wantErr {
				t.Errorf("Judge: %q, want %q", got, tc.wantErr)
			}
			if diff := cmp.Diff(tc.wantLine, split.Summary(tc.declared, tc.counts)); diff != "" {
				t.Errorf("Summary (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMeter(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	half := split.Counts{First: 900, Second: 100, Requests: 1000}
	whole := split.Counts{First: 1800, Second: 200, Requests: 2000, Failed: 1}
	tests := map[string]struct {
		terminal bool
		want     string
	}{
		"on a terminal one line is drawn again": {
			terminal: true,
			want: "\r\x1b[K  HTTPRoute declared 90/10  observed  90.0/10.0  [" + strings.Repeat("#", 36) + "----]   1000/2000 failed 0" +
				"\r\x1b[K  HTTPRoute declared 90/10  observed  90.0/10.0  [" + strings.Repeat("#", 36) + "----]   1000/2000 failed 0" +
				"\r\x1b[K  HTTPRoute declared 90/10  observed  90.0/10.0  [" + strings.Repeat("#", 36) + "----]   1000/2000 failed 0" +
				"\r\x1b[K  HTTPRoute declared 90/10  observed  90.0/10.0  [" + strings.Repeat("#", 36) + "----]   2000/2000 failed 1\n",
		},
		"in a log a line comes only so often": {
			want: "  HTTPRoute declared 90/10  observed  90.0/10.0  [" + strings.Repeat("#", 36) + "----]   1000/2000 failed 0\n" +
				"  HTTPRoute declared 90/10  observed  90.0/10.0  [" + strings.Repeat("#", 36) + "----]   2000/2000 failed 1\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			m := split.Meter{Out: &out, Terminal: tc.terminal, Name: "HTTPRoute", Declared: split.Declared(90, 10), Total: 2000}
			m.Show(half, at)
			m.Show(half, at.Add(time.Second))
			m.Show(half, at.Add(2*time.Second))
			m.End(whole)
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("meter (-want +got):\n%s", diff)
			}
		})
	}
}
