package controllers

import (
	"context"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// keySets has the key sets read that authorizations need, and returns those that are known. What the operator before
// this one has read is among them, so that its policies lose nothing.
func (w *World) keySets(ctx context.Context, s compile.Snapshot, authorizations []*meshv1alpha1.MeshAuthorization) (map[compile.KeySource]compile.KeySet, error) {
	if err := w.Keys.Load(ctx); err != nil {
		return nil, err
	}
	var hosts []meshv1alpha1.JWKSHost
	if s.Mesh != nil {
		hosts = s.Mesh.Spec.JWKS.Hosts
	}
	s.MeshAuthorizations = authorizations
	w.Keys.Need(compile.KeySources(s), hosts)
	return w.Keys.Sets(), nil
}
