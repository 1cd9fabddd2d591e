package engine

import (
	"errors"
	"fmt"
	"net/url"

	"weft.dev/weft/proxy/wire"
)

// validateProtection refuses ejections and health checks that cannot be carried out.
func validateProtection(p *wire.Policy) error {
	if o := p.OutlierEjection; o != nil {
		for name, percent := range map[string]*int{
			"successRatePercent": o.SuccessRatePercent, "maxEjectedPercent": o.MaxEjectedPercent, "panicPercent": o.PanicPercent,
		} {
			if percent != nil && *percent > 100 {
				return fmt.Errorf("outlierEjection.%s is more than 100: %d", name, *percent)
			}
		}
	}
	c := p.HealthCheck
	switch {
	case c == nil:
		return nil
	case c.Interval <= 0 || c.Timeout <= 0:
		return errors.New("healthCheck needs an interval and a timeout")
	case c.Unhealthy < 1 || c.Healthy < 1:
		return errors.New("healthCheck needs numbers of failures and successes")
	}
	switch c.Type {
	case wire.HealthCheckGRPC, wire.HealthCheckTCP:
		return nil
	case wire.HealthCheckHTTP:
		if _, err := url.ParseRequestURI(c.Path); err != nil {
			return fmt.Errorf("healthCheck.path: %w", err)
		}
		return nil
	}
	return fmt.Errorf("healthCheck.type %q is not supported", c.Type)
}
