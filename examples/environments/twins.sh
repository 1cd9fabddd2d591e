#!/bin/sh
# Writes an HTTPRoute for every Service of the cluster that has a twin for an environment: a Service with
# the same name and the suffix "-ENVIRONMENT" in the same namespace. Requests that belong to the environment
# go to the twin, all others to production.
#
#   examples/environments/twins.sh staging | kubectl apply -f -
#
# Run it again when twins come; delete a route when its twin goes. Needs kubectl and sh. Ports of the twin
# must be those of the Service.
set -eu
environment=${1:?usage: twins.sh ENVIRONMENT}
case $environment in *[!a-z0-9-]*) echo "twins.sh: an environment is lower-case letters, digits and dashes" >&2; exit 2 ;; esac

services=$(kubectl get services --all-namespaces -o jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{" "}{.spec.ports[*].port}{"\n"}{end}')

printf '%s\n' "$services" | while read -r namespace name ports; do
	printf '%s\n' "$services" | grep -q "^$namespace $name-$environment " || continue
	# A route for each port, since its rules name the port of the backend.
	for port in $ports; do
		cat <<-ROUTE
		---
		apiVersion: gateway.networking.k8s.io/v1
		kind: HTTPRoute
		metadata:
		  name: $name-$environment-$port
		  namespace: $namespace
		  labels: {environment: $environment}
		spec:
		  parentRefs:
		  - {group: "", kind: Service, name: $name, port: $port}
		  rules:
		  - name: $environment
		    matches:
		    - headers:
		      - {name: x-environment, value: $environment}
		    - headers:
		      - {name: baggage, type: RegularExpression, value: '(.*,)?\s*environment\s*=\s*$environment\s*([,;].*)?'}
		    backendRefs:
		    - {name: $name-$environment, port: $port}
		  - name: production
		    backendRefs:
		    - {name: $name, port: $port}
		ROUTE
	done
done
