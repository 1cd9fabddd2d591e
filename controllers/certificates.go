package controllers

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/identity"
)

// maxRequest is the longest request that the API takes in a status, in bytes; annotations may be longer.
const maxRequest = 256

// certificateState is what the status of the Mesh says about certificates is made from.
type certificateState struct {
	authority *identity.Authority
	// fault says why the Secret of the authority is not what is in force.
	fault   error
	waiting acknowledgement
	// found is what the Mesh names as authority, request what it asks for in its annotation.
	found   identity.Found
	request string
	// failure says what could not be issued.
	failure string
	// lifetime is that of workload certificates.
	lifetime time.Duration
	now      time.Time
}

// shortLifetime is below which people are warned: proxies then refuse each other soon after the operator, or
// the API server, has gone away.
const shortLifetime = time.Hour

// authorityStatus describes the authority.
func authorityStatus(s certificateState) meshv1alpha1.CertificateAuthorityStatus {
	a := s.authority
	status := meshv1alpha1.CertificateAuthorityStatus{Rotation: string(a.Phase), RotateRoot: a.Handled}
	if len(a.Handled) > maxRequest {
		status.RotateRoot = strings.ToValidUTF8(a.Handled[:maxRequest], "")
	}
	if !a.Since.IsZero() {
		status.Since = &metav1.Time{Time: a.Since}
	}
	if a.Phase != identity.Steady && s.waiting.phase == a.Phase {
		status.Acknowledged = fmt.Sprintf("%d/%d", s.waiting.n, s.waiting.m)
	}
	for _, root := range a.Roots() {
		status.Roots = append(status.Roots, authorityCertificate(root))
	}
	status.Intermediates = []meshv1alpha1.AuthorityCertificate{authorityCertificate(a.Intermediate())}
	return status
}

func authorityCertificate(c identity.Certificate) meshv1alpha1.AuthorityCertificate {
	return meshv1alpha1.AuthorityCertificate{
		Fingerprint: c.Fingerprint, NotAfter: &metav1.Time{Time: c.NotAfter}, Issuing: &c.Issuing,
	}
}

// certificatesValid tells of certificates that have come, or come soon, to their end, and of those that
// cannot be had.
func certificatesValid(s certificateState) metav1.Condition {
	c := metav1.Condition{Type: meshv1alpha1.MeshCertificatesValid, Status: metav1.ConditionTrue, Reason: "Valid",
		Message: "root and intermediate have life enough left, and every certificate that was due is issued"}
	var expired, expiring []string
	for _, named := range authorityCertificates(s.authority) {
		end := fmt.Sprintf("the %s ends at %s", named.name, named.certificate.NotAfter.UTC().Format(time.RFC3339))
		switch named.certificate.LifeLeft(s.now) {
		case 0:
			expired = append(expired, end)
		case 10, 25:
			expiring = append(expiring, end)
		}
	}
	const advice = "; see the Events of this Mesh for what keeps it from being renewed"
	var reason, message string
	switch {
	case len(expired) > 0:
		reason, message = "Expired", strings.Join(expired, ", ")+": nothing can be issued, and peers refuse what was"+advice
	case s.fault != nil:
		reason, message = "SecretNotUsable", fmt.Sprintf("Secret %s: %v", identity.CASecretName, s.fault)
	case s.failure != "":
		reason, message = "NotIssued", s.failure
	case len(expiring) > 0:
		reason, message = "Expiring", strings.Join(expiring, ", ")+advice
	}
	if reason != "" {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, reason, truncate(message)
	} else if s.lifetime < shortLifetime {
		c.Reason = "ShortLifetime"
		c.Message += fmt.Sprintf("; but spec.certificates.lifetime is %s, less than %s: calls between namespaces fail once the operator has been away for half of that",
			s.lifetime, shortLifetime)
	}
	return c
}

// authorityAccepted tells whether the authority in force is the one that the spec names.
func authorityAccepted(s certificateState) metav1.Condition {
	c := metav1.Condition{Type: meshv1alpha1.MeshCertificateAuthorityAccepted, Status: metav1.ConditionTrue, Reason: "Accepted"}
	stays := "; the certificate authority that is in force stays in use"
	switch found := s.found; {
	case found.Fault != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Invalid", truncate(found.Field+": "+found.Fault)+stays
	case found.Pending != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Pending", truncate(found.Field+": "+found.Pending)+stays
	case found.Source != s.authority.Source:
		c.Reason, c.Message = "Exchanging", "another certificate authority is taking the place of the one in force; RootRotating tells how far that has come"
	case found.Source == "":
		c.Message = "the operator is the certificate authority"
	default:
		c.Message = found.Name + " is the certificate authority"
	}
	return c
}

// rootRotating tells how far an exchange of the root has come and who is waited for.
func rootRotating(s certificateState) metav1.Condition {
	phase := cmp.Or(s.authority.Phase, identity.Steady)
	c := metav1.Condition{Type: meshv1alpha1.MeshRootRotating, Status: metav1.ConditionTrue, Reason: string(phase)}
	switch {
	case phase == identity.Steady && s.found.RootElsewhere && s.request != "" && s.request != s.authority.Handled:
		c.Status = metav1.ConditionFalse
		c.Message = "no exchange of the root is under way: " + s.found.Name + " has the root, change that instead of the annotation " + meshv1alpha1.RotateRootAnnotation
	case phase == identity.Steady:
		c.Status, c.Message = metav1.ConditionFalse, "no exchange of the root is under way"
	case s.waiting.phase != phase:
		c.Message = "the phase has just begun"
	case s.waiting.complete():
		c.Message = fmt.Sprintf("%d of %d have acknowledged", s.waiting.n, s.waiting.m)
	default:
		c.Message = truncate(fmt.Sprintf("%d of %d have acknowledged; waiting for %s",
			s.waiting.n, s.waiting.m, strings.Join(s.waiting.missing, "; ")))
	}
	return c
}
