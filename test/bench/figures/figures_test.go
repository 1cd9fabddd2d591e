package figures_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/bench/figures"
)

func TestFigures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		figure     figures.Figure
		want, json string
	}{
		"no goal": {
			figure: figures.New("requests", 12, "requests"), want: "requests: 12.00 requests",
			json: `{"name":"requests","value":12,"unit":"requests"}`,
		},
		"a goal that is just met": {
			figure: figures.New("recovery", 5, "s").AtMost(5), want: "recovery: 5.00 s, goal <= 5: met",
			json: `{"name":"recovery","value":5,"unit":"s","goal":"<= 5","met":true}`,
		},
		"a goal that is missed": {
			figure: figures.New("recovery", 5.01, "s").AtMost(5), want: "recovery: 5.01 s, goal <= 5: not met",
			json: `{"name":"recovery","value":5.01,"unit":"s","goal":"<= 5","met":false}`,
		},
		"a least value that is just reached": {
			figure: figures.New("goodput", 85, "%").AtLeast(85), want: "goodput: 85.00 %, goal >= 85: met",
			json: `{"name":"goodput","value":85,"unit":"%","goal":">= 85","met":true}`,
		},
		"a least value that is not reached": {
			figure: figures.New("goodput", 84.9, "%").AtLeast(85), want: "goodput: 84.90 %, goal >= 85: not met",
			json: `{"name":"goodput","value":84.9,"unit":"%","goal":">= 85","met":false}`,
		},
		"a least value of nothing measured": {
			figure: figures.Figure{Name: "goodput", Unit: "%"}.AtLeast(0), want: "goodput: none, goal >= 0: not met",
			json: `{"name":"goodput","value":null,"unit":"%","goal":">= 0","met":false}`,
		},
		"a goal of nothing measured": {
			figure: figures.Figure{Name: "recovery", Unit: "s"}.AtMost(5), want: "recovery: none, goal <= 5: not met",
			json: `{"name":"recovery","value":null,"unit":"s","goal":"<= 5","met":false}`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, tc.figure.String()); diff != "" {
				t.Errorf("for people (-want +got):\n%s", diff)
			}
			path := filepath.Join(t.TempDir(), "folder", "bench.json")
			if err := figures.Write(path, []figures.Figure{tc.figure}); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff("["+tc.json+"]", compact(t, data)); diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	got := figures.Table([]figures.Figure{
		figures.New("recovery", 2.5, "s").AtMost(5), figures.Figure{Name: "nothing", Unit: "s"}.AtMost(5), figures.New("requests", 1200, "requests"),
	})
	want := `figure    value             goal  met
recovery  2.50 s            <= 5  yes
nothing   none              <= 5  no
requests  1200.00 requests        
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func compact(t *testing.T, data []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, data); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
