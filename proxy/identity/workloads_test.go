package identity_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/wire"
)

func TestWorkloads(t *testing.T) {
	address := netip.MustParseAddr("10.0.0.7")
	cart := &wire.Workload{Address: address, ServiceAccount: "cart"}
	workloads := identity.NewWorkloads()
	if _, ok := workloads.Lookup(address); ok {
		t.Error("found in an empty table")
	}
	workloads.Update(map[netip.Addr]*wire.Workload{address: cart})
	for name, asked := range map[string]netip.Addr{"plain": address, "mapped": netip.MustParseAddr("::ffff:10.0.0.7")} {
		if got, ok := workloads.Lookup(asked); !ok || got != cart {
			t.Errorf("%s address: %v, %v", name, got, ok)
		}
		if got, err := workloads.Wait(t.Context(), asked); err != nil || got != cart {
			t.Errorf("%s address: %v, %v", name, got, err)
		}
	}
	workloads.Update(nil)
	if _, ok := workloads.Lookup(address); ok {
		t.Error("found after it was removed")
	}
}

func TestWaitUntilAWorkloadIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		address, other := netip.MustParseAddr("fd00::7"), netip.MustParseAddr("fd00::8")
		cart := &wire.Workload{Address: address, ServiceAccount: "cart"}
		workloads := identity.NewWorkloads()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()

		found := make(chan *wire.Workload, 3)
		for range 3 {
			go func() {
				workload, err := workloads.Wait(ctx, address)
				if err != nil {
					t.Errorf("wait: %v", err)
				}
				found <- workload
			}()
		}
		impatient, give := context.WithTimeout(t.Context(), time.Second)
		defer give()
		if _, err := workloads.Wait(impatient, address); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("impatient: %v", err)
		}
		workloads.Update(map[netip.Addr]*wire.Workload{other: {Address: other}})
		synctest.Wait()
		if len(found) > 0 {
			t.Error("woken by another address")
		}
		workloads.Update(map[netip.Addr]*wire.Workload{address: cart})
		for range 3 {
			if got := <-found; got != cart {
				t.Errorf("found %v", got)
			}
		}
	})
}
