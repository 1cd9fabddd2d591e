package jwks

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/jwt/jwttest"
)

// TestReadsAreMeasured: of each set how often it was read, whether that succeeds, and when it last did.
func TestReadsAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.set(idp.URL, jwttest.Set(jwttest.New("one", jose.EdDSA)))
		k := started(t, fake.NewClientBuilder().Build(), n)
		if got := testutil.CollectAndCount(k); got != 0 {
			t.Errorf("%d series before anything is needed", got)
		}
		k.Need(map[compile.KeySource]time.Duration{idp: time.Hour, partner: time.Hour}, nil)
		synctest.Wait()
		at := time.Now()
		n.set(idp.URL, "")
		pass(2 * time.Hour) // to what is read next, an hour later give or take a tenth
		for n.count(idp.URL) < 2 {
			pass(time.Minute)
		}
		synctest.Wait()
		want := fmt.Sprintf(`
# HELP weft_jwks_last_read_successful Whether the last attempt to read a key set succeeded (1) or not (0); then the keys that were read before stay in force. Known to the leader alone.
# TYPE weft_jwks_last_read_successful gauge
weft_jwks_last_read_successful{source="https://id.example/keys"} 0
weft_jwks_last_read_successful{source="https://partner.example/keys"} 0
# HELP weft_jwks_last_success_timestamp_seconds When a key set was read last, as seconds since 1970; absent if this operator has not read it yet. Known to the leader alone.
# TYPE weft_jwks_last_success_timestamp_seconds gauge
weft_jwks_last_success_timestamp_seconds{source="https://id.example/keys"} %d
# HELP weft_jwks_reads_total Attempts to read the key set of an issuer of tokens, by where it is and outcome: success or failure. Known to the leader alone.
# TYPE weft_jwks_reads_total counter
weft_jwks_reads_total{outcome="success",source="https://id.example/keys"} 1
weft_jwks_reads_total{outcome="failure",source="https://id.example/keys"} %d
weft_jwks_reads_total{outcome="success",source="https://partner.example/keys"} 0
weft_jwks_reads_total{outcome="failure",source="https://partner.example/keys"} %d
`, at.Unix(), n.count(idp.URL)-1, n.count(partner.URL))
		if err := testutil.CollectAndCompare(k, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		k.Need(nil, nil)
		synctest.Wait()
		if got := testutil.CollectAndCount(k); got != 0 {
			t.Errorf("%d series when nothing is needed any more", got)
		}
	})
}

// TestSeriesAreBounded: however many sets policies name.
func TestSeriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := started(t, fake.NewClientBuilder().Build(), newNetwork())
		needed := map[compile.KeySource]time.Duration{}
		for i := range 3 * maxMeasured {
			needed[compile.KeySource{URL: fmt.Sprintf("https://%d.example", i)}] = time.Hour
		}
		k.Need(needed, nil)
		synctest.Wait()
		counted := k.counted()
		if len(counted) != maxMeasured+1 || counted[others].failed != 2*maxMeasured {
			t.Errorf("%d sets, %v others", len(counted), counted[others])
		}
	})
}
