#!/usr/bin/env bash
# Runs the unmodified upstream conformance suite against the mesh that KUBECONFIG points at and writes
# build/conformance/report.yaml and build/conformance/tests.txt (a line a test). Without EXPECT_FILE all mesh tests of the
# suite must pass; they are listed in mesh.txt, because the suite skips what it is not told to run.
#
#   run.sh SUITE_BINARY PROFILES [EXPECT_FILE] [RUN_TEST]
set -uo pipefail
suite=$1 profiles=$2 expect=${3:-test/conformance/mesh.txt} only=${4:-}
out=build/conformance
mkdir -p "$out"

features=Mesh,HTTPRoute,GRPCRoute
# The nine features that the mesh profiles can list.
features+=,MeshClusterIPMatching,MeshConsumerRoute,MeshHTTPRouteRewritePath,MeshHTTPRouteSchemeRedirect
features+=,MeshHTTPRouteRedirectPort,MeshHTTPRouteRedirectPath,MeshHTTPRouteBackendRequestHeaderModification
features+=,MeshHTTPRouteQueryParamMatching,MeshHTTPRouteNamedRouteRule
# What mesh tests outside the profiles name besides.
features+=,HTTPRouteResponseHeaderModification,HTTPRouteParentRefPort
features+=,HTTPRoute303RedirectStatusCode,HTTPRoute307RedirectStatusCode,HTTPRoute308RedirectStatusCode

echo 'the suite, and every module that it replaces:'
go version -m "$suite" | grep -A1 -E 'gateway-api/conformance|^\s+=>|gateway-api	|conformance-images' | grep -vE '^--$'

args=(
	-test.v -test.run '^TestConformance$' -test.timeout 20m
	--conformance-profiles="$profiles" --supported-features="$features"
	--namespace-labels=mesh.weft.dev/enabled=true --gateway-class=
	--organization=weft --project=weft --url=https://weft.dev --contact=https://weft.dev/contact
	--version="${VERSION:-dev}" --report-output="$out/report.yaml"
)
if [ -n "$only" ]; then
	args+=(--run-test="$only")
	expect=$out/only.txt
	echo "$only" > "$expect"
fi
"$suite" "${args[@]}" 2>&1 | tee "$out/suite.log" | go tool test2json -p conformance |
	go run ./test/report -name conformance -children TestConformance -out "$out/tests.txt" -expect "$expect"
