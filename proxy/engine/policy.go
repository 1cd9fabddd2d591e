package engine

import (
	"fmt"
	"time"

	"weft.dev/weft/proxy/wire"
)

// defaultPolicy is what applies where nothing else is said. It is shared and must not be changed.
var defaultPolicy = wire.DefaultPolicy()

// effective lays policies over the default, the most general first. Every field of the result that is no
// list and not inherited whole is set.
func effective(levels ...*wire.Policy) *wire.Policy {
	merged := defaultPolicy
	for _, level := range levels {
		merged = wire.Overlay(merged, level)
	}
	return merged
}

// validatePolicy refuses what would not mean anything. Whether the values are sensible is for the API to
// say.
func validatePolicy(p *wire.Policy) error {
	for _, field := range p.Fields() {
		switch value := field.Value.(type) {
		case wire.Duration:
			if value < 0 {
				return fmt.Errorf("%s is negative: %s", field.Path, time.Duration(value))
			}
		case int:
			if value < 0 {
				return fmt.Errorf("%s is negative: %d", field.Path, value)
			}
		}
	}
	if err := validateMeasures(p); err != nil {
		return err
	}
	if p == nil {
		return nil
	}
	if err := validateProtection(p); err != nil {
		return err
	}
	if err := validateLoadBalancing(p.LoadBalancing); err != nil {
		return err
	}
	if err := validateTelemetry(p.Telemetry); err != nil {
		return err
	}
	return validateRetry(p.Retry)
}
