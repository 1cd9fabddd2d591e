package compile

import gwv1 "sigs.k8s.io/gateway-api/apis/v1"

// refusal is why a parent is not accepted.
type refusal struct {
	reason  gwv1.RouteConditionReason
	message string
}
