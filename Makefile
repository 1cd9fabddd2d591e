# Weft: build, test and try. `make help` lists the targets.

export GOTOOLCHAIN := go1.27.4
export CGO_ENABLED ?= 0
SHELL := /bin/bash -o pipefail
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/weft
VERSION ?= v0.1.0
BIN := bin

LDFLAGS := -s -w -X weft.dev/weft/proxy/wire.Build=$(VERSION)
# Without gRPC's own tracing, whose templates of HTML keep the linker from leaving out what nobody calls: a sixth of the proxy.
TAGS := grpcnotrace
COMMANDS := weft-operator weft-proxy weft-node
CLI := kubectl-weft

LOCAL := go run ./test/cluster
CODEGEN := go tool -modfile=tools/codegen/go.mod
KUSTOMIZE := go tool -modfile=tools/kustomize/go.mod kustomize
LINT := $(CACHE)/bin/lint-$(shell cksum tools/lint/go.sum | cut -d' ' -f1)

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Build

.PHONY: build
build: ## build the binaries into bin/
	@for c in $(COMMANDS) $(CLI); do echo "building $$c" && go build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/$$c ./cmd/$$c || exit 1; done

.PHONY: generate
generate: ## regenerate deep copies
	$(CODEGEN) controller-gen object paths=./api/...

.PHONY: manifests
manifests: ## regenerate CRDs and RBAC
	$(CODEGEN) controller-gen crd:crdVersions=v1 paths=./api/... output:crd:dir=config/crd/bases
	$(CODEGEN) controller-gen rbac:roleName=weft-operator paths=./controllers output:rbac:dir=config/rbac

.PHONY: golden
golden: catalog ## rewrite the golden files, bundle and catalog and the generated pages of docs
	go test ./controllers/compile ./controllers/infra ./webhooks ./config ./config/observability ./proxy/reason ./cmd/kubectl-weft/findings ./cmd/kubectl-weft -run Golden -update

##@ Test

.PHONY: packages
packages: ## install the Debian packages that the tests need
	@$(LOCAL) packages

.PHONY: test
test: packages ## unit, golden, feature and envtest tests with the race detector
	@assets=$$($(LOCAL) build envtest | tail -n 1) && mkdir -p build/test && \
	KUBEBUILDER_ASSETS=$${KUBEBUILDER_ASSETS:-$$assets} CGO_ENABLED=1 go test -race -json -timeout 15m $(TESTFLAGS) ./... \
		| go run ./test/report -name test -out build/test/unit.txt

.PHONY: soak-authz
soak-authz: ## compare the authorization engine with its reference a million times
	go test ./test/authz -run TestAgainstReference -v -pairs 1000000

DURATION ?= 20m
REQUESTS ?= 0
.PHONY: soak-proxy
soak-proxy: ## proxies under mixed load and changes for DURATION and at least REQUESTS requests with each engine, or with ENGINE: nothing fails or grows
	@mkdir -p build/test && go test ./test/soak -json -count 1 -timeout 0 -args -duration $(DURATION) -requests $(REQUESTS) -engine '$(ENGINE)' \
		-figures $(CURDIR)/build/bench/soak.json | go run ./test/report -name soak -out build/test/soak.txt && cat build/bench/soak.json

.PHONY: lint
lint: $(LINT) ## golangci-lint with kube-api-linter
	$(LINT) run --allow-parallel-runners ./...

$(LINT):
	@echo "building the linter"
	@mkdir -p $(@D) && cd tools/lint && go build -o $@ .

GENERATED := api config controllers webhooks bundle docs go.mod go.sum
.PHONY: verify
verify: ## generated files equal the committed ones
	@$(MAKE) --no-print-directory generate manifests golden
	@go mod tidy -diff
	@changed=$$(git status --porcelain -- $(GENERATED)); \
	if [ -n "$$changed" ]; then echo "regenerated files differ from the committed ones:"; echo "$$changed"; git diff -- $(GENERATED) | head -100; exit 1; fi; \
	echo "verify: ok"

.PHONY: try
try: ## the canary story without root and without a cluster
	@go run ./test/try

# Each target runs for 30 s, FUZZJOBS of them at a time, or for less if together they would take longer than
# FUZZBUDGET seconds. FUZZTIME=10m gives each a time of its own. Inputs that fail are kept in testdata/fuzz.
FUZZTIME ?=
FUZZJOBS ?= 2
FUZZBUDGET ?= 480
.PHONY: fuzz
fuzz: ## run every fuzz target for 30 s, or what FUZZBUDGET leaves it; FUZZTIME=10m for another time
	@rm -rf build/fuzz && mkdir -p build/fuzz && grep -roE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' api controllers proxy test webhooks \
		| sed -E 's|^(.*)/[^/]*:func (.*)|\1 \2|' | sort > build/fuzz/targets && n=$$(wc -l < build/fuzz/targets) && \
	each=$$(($(FUZZBUDGET) * $(FUZZJOBS) / n)) && each=$$((each < 30 ? each : 30)) && time='$(FUZZTIME)' && time=$${time:-$${each}s} && \
	echo "fuzz: $$n targets for $$time each, $(FUZZJOBS) at a time" && \
	xargs -P $(FUZZJOBS) -n 2 sh -c 'log=build/fuzz/$$2.log; \
		if go test -run "^$$" -fuzz "^$$2\$$" -fuzztime "$$0" -parallel 1 "./$$1" > "$$log" 2>&1; then \
			echo "$$1 $$2: $$(grep -oE "execs: [0-9]+" "$$log" | tail -n 1)"; \
		else cat "$$log"; exit 255; fi' "$$time" < build/fuzz/targets && echo 'fuzz: ok'

##@ Install into the cluster of the current kubectl context

IMAGE_PREFIX ?=
KUBECTL_USER ?= kubectl
CONTAINER_TOOL ?= docker

.PHONY: build/deploy
build/deploy:
	@mkdir -p $@ && cp config/default/images.yaml $@/
	@{ echo 'resources: [../../config/default]'; echo 'configurations: [images.yaml]'; echo 'images:'; \
	for c in $(COMMANDS); do echo "- {name: $$c, newName: $(IMAGE_PREFIX)$$c, newTag: $(VERSION)}"; done; } > $@/kustomization.yaml

# BUNDLE_RELEASED=1 asks for images by digest, which NAME_IMAGE=... gives: OPERATOR_IMAGE, PROXY_IMAGE, NODE_IMAGE.
OPERATOR_IMAGE ?= $(IMAGE_PREFIX)weft-operator:$(VERSION)
PROXY_IMAGE ?= $(IMAGE_PREFIX)weft-proxy:$(VERSION)
NODE_IMAGE ?= $(IMAGE_PREFIX)weft-node:$(VERSION)
BUNDLE_IMAGE ?= $(IMAGE_PREFIX)weft-bundle:$(VERSION)
BUNDLE_DIR ?= bundle
.PHONY: bundle catalog bundle-build
bundle: ## regenerate the bundle for the Operator Lifecycle Manager
	@mkdir -p build/bundle && cp config/default/images.yaml build/bundle/
	@{ echo 'resources: [../../config/manifests]'; echo 'configurations: [images.yaml]'; echo 'images:'; \
	for i in operator=$(OPERATOR_IMAGE) proxy=$(PROXY_IMAGE) node=$(NODE_IMAGE); do \
		case $${i#*=} in \
		*@*) echo "- {name: weft-$${i%%=*}, newName: '$$(echo $${i#*=} | cut -d@ -f1)', digest: '$${i#*@}'}";; \
		*) echo "- {name: weft-$${i%%=*}, newName: '$$(echo $${i#*=} | sed 's/:[^:]*$$//')', newTag: '$${i##*:}'}";; \
		esac; done; } > build/bundle/kustomization.yaml
	@$(KUSTOMIZE) build build/bundle | go run ./tools/bundle -version $(VERSION) -icon config/manifests/icon.svg -out $(BUNDLE_DIR) $(if $(BUNDLE_RELEASED),-released)
catalog: bundle ## regenerate the file-based catalog
	@go run ./tools/bundle -out $(BUNDLE_DIR) -catalog config/catalog/weft/catalog.yaml -image $(BUNDLE_IMAGE)
bundle-build: ## build the bundle's image with a container engine
	$(CONTAINER_TOOL) build -f bundle/bundle.Dockerfile -t $(BUNDLE_IMAGE) bundle

.PHONY: build-installer
build-installer: build/deploy ## one file to apply: dist/install.yaml
	@mkdir -p dist && $(KUSTOMIZE) build build/deploy > dist/install.yaml && echo dist/install.yaml

KREW_PLATFORMS := darwin-amd64 darwin-arm64 linux-amd64 linux-arm64 windows-amd64
KREW_BASE ?= https://weft.dev/releases/$(VERSION)
.PHONY: krew
krew: ## archives of kubectl weft and its manifest for krew: dist/krew/
	@mkdir -p dist/krew && for p in $(KREW_PLATFORMS); do echo "building $(CLI) for $$p" && \
		GOOS=$${p%-*} GOARCH=$${p#*-} go build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o build/krew/$$p/ ./cmd/$(CLI) || exit 1; done
	@go run ./tools/krew -version $(VERSION) -binaries build/krew -base $(KREW_BASE) -out dist/krew && echo dist/krew/weft.yaml

.PHONY: install uninstall deploy undeploy
install: ## install the CRDs
	$(KUSTOMIZE) build config/crd | $(KUBECTL_USER) apply --server-side -f -
uninstall: ## remove the CRDs
	$(KUSTOMIZE) build config/crd | $(KUBECTL_USER) delete --ignore-not-found -f -
deploy: build/deploy ## install Weft; IMAGE_PREFIX and VERSION name the images
	$(KUSTOMIZE) build build/deploy | $(KUBECTL_USER) apply --server-side -f -
undeploy: build/deploy ## remove Weft; take the label off enrolled namespaces first
	$(KUSTOMIZE) build build/deploy | $(KUBECTL_USER) delete --ignore-not-found -f -

.PHONY: docker-build docker-push
docker-build: ## build the images with a container engine
	for c in $(COMMANDS); do $(CONTAINER_TOOL) build --target $$c --build-arg VERSION=$(VERSION) -t $(IMAGE_PREFIX)$$c:$(VERSION) . || exit 1; done
docker-push: ## push them
	for c in $(COMMANDS); do $(CONTAINER_TOOL) push $(IMAGE_PREFIX)$$c:$(VERSION) || exit 1; done

##@ Local cluster

IMAGES := $(COMMANDS:%=build/images/%.tar)
KUBECONFIG_LOCAL := $(CURDIR)/build/cluster/kubeconfig
KUBECTL := $(CURDIR)/build/cluster/kubectl --kubeconfig $(KUBECONFIG_LOCAL)
GATEWAY_API = $(shell GOTOOLCHAIN=$(GOTOOLCHAIN) go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)

.PHONY: cluster-up cluster-down cluster-status
cluster-up: ## start the local two-node Kubernetes
	@$(LOCAL) up
cluster-down: ## stop it and leave nothing behind
	@$(LOCAL) down
cluster-status: ## show what runs
	@$(LOCAL) status

.PHONY: images
images: build ## image archives of the binaries in build/images/
	@for c in $(COMMANDS); do $(LOCAL) image -tag $(IMAGE_PREFIX)$$c:$(VERSION) -binary $(BIN)/$$c -out build/images/$$c.tar || exit 1; done

# The proxies' implementation of HTTP: weft or std; empty for their default, which is weft.
ENGINE ?=
# Where the proxies of pods are: namespace, which they share, or sidecar.
PLACEMENT ?= namespace
.PHONY: mesh
mesh: images cluster-up build/deploy ## install Weft on the local cluster from the manifests a user would apply
	@$(LOCAL) load $(IMAGES)
	@$(KUBECTL) apply --server-side -f $(GATEWAY_API)/config/crd/standard > /dev/null
	@$(KUSTOMIZE) build build/deploy | $(KUBECTL) apply --server-side --force-conflicts -f - > /dev/null
	@$(KUBECTL) -n weft-system set env deployment/weft-operator WEFT_PROXY_HTTP_ENGINE=$(ENGINE) > /dev/null
	@$(KUBECTL) -n weft-system rollout restart deployment/weft-operator daemonset/weft-node > /dev/null
	@$(KUBECTL) -n weft-system rollout status deployment/weft-operator --timeout 120s
	@$(KUBECTL) -n weft-system rollout status daemonset/weft-node --timeout 120s
	@$(KUBECTL) patch mesh default --type merge --patch '{"spec":{"proxy":{"placement":"$(PLACEMENT)"}}}' > /dev/null
	@$(KUBECTL) wait --for=condition=Ready mesh/default --timeout 60s

# An existing cluster is used only on request: make demo CLUSTER=existing CONTEXT=... REGISTRY=...
CLUSTER ?= local
CONTEXT ?=
REGISTRY ?=
.PHONY: demo demo-down
ifeq ($(CLUSTER),existing)
demo: IMAGE_PREFIX := $(REGISTRY)/
demo: demo-context images build/deploy
	@go run ./test/demo push -registry $(REGISTRY) $(IMAGES)
	@kubectl --context $(CONTEXT) get crd httproutes.gateway.networking.k8s.io grpcroutes.gateway.networking.k8s.io > /dev/null 2>&1 || \
		kubectl --context $(CONTEXT) apply --server-side -f $(GATEWAY_API)/config/crd/standard
	@$(KUSTOMIZE) build build/deploy | kubectl --context $(CONTEXT) apply --server-side -f -
	@kubectl --context $(CONTEXT) -n weft-system rollout status deployment/weft-operator --timeout 180s
	@kubectl --context $(CONTEXT) wait --for=condition=Ready mesh/default --timeout 180s
	@go run ./test/demo -kubectl 'kubectl --context $(CONTEXT)' -registry $(REGISTRY)
.PHONY: demo-context
demo-context:
	@test -n '$(CONTEXT)' && test -n '$(REGISTRY)' || { echo 'demo: CLUSTER=existing needs CONTEXT and REGISTRY'; exit 2; }
	@echo 'demo: context $(CONTEXT), images in $(REGISTRY)'
else
demo: mesh ## a canary on a real Kubernetes on this machine; CLUSTER=existing CONTEXT=... REGISTRY=... for another
	@go run ./test/demo
endif
demo-down: cluster-down ## stop what make demo has started

PROFILES ?= MESH-HTTP,MESH-GRPC
EXPECT ?=
RUN ?=
.PHONY: conformance
conformance: mesh ## Gateway API conformance, upstream suite; EXPECT=FILE holds it to a list, RUN=NAME runs one test, ENGINE=std with net/http, PLACEMENT=sidecar with proxies beside pods
	@suite=$$($(LOCAL) build -path conformance)/conformance.test && \
	$(LOCAL) load $$($(LOCAL) build -path echo) && \
	KUBECONFIG=$(KUBECONFIG_LOCAL) VERSION=$(VERSION) test/conformance/run.sh $$suite $(PROFILES) '$(EXPECT)' '$(RUN)'

.PHONY: e2e
e2e: mesh ## end-to-end tests on the local cluster; EXPECT=FILE holds them to a list, RUN=REGEX runs some, SKIP=REGEX none of these, ENGINE=std with net/http, PLACEMENT=sidecar with proxies beside pods
	@mkdir -p build/test && go test -tags e2e -json -p 1 -timeout 30m -run '$(RUN)' -skip '$(SKIP)' ./test/e2e/... \
		| go run ./test/report -name e2e -out build/test/e2e.txt $(if $(EXPECT),-expect $(EXPECT))

##@ Benches

.PHONY: bench-propagation
bench-propagation: mesh ## from an edit of an HTTPRoute to its first effect, beside a bare watch
	@go run ./test/bench/propagation

.PHONY: bench-resilience
bench-resilience: ## slow instances, retry storms, overload and splits, in this process; BENCHFLAGS=-short for a minute
	@go run ./test/bench/resilience $(BENCHFLAGS)

ROUNDS ?= 5
SCENARIOS ?=
.PHONY: bench-proxy
bench-proxy: packages ## cost of our proxies beside HAProxy, nginx and Envoy; ROUNDS=3 SCENARIOS=h1-1k for a few minutes
	@go build -o build/bench-proxy ./test/bench/proxy && build/bench-proxy -rounds $(ROUNDS) -scenarios '$(SCENARIOS)'

ROUTES ?= 100,1000,5000,10000
.PHONY: bench-control
bench-control: ## cost of the control plane with 100 to 10,000 routes; ROUTES=1000 for a few minutes
	@go build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weft-operator ./cmd/weft-operator && go build -o build/bench-control ./test/bench/control && \
	go build -trimpath -ldflags '-s -w' -o build/bench-control-proxy ./test/bench/control/proxy && build/bench-control -routes '$(ROUTES)' -operator $(BIN)/weft-operator

.PHONY: bench-observability
bench-observability: packages ## cost of metrics and of a trace of every hundredth request, and series of routes that nobody calls
	@go build -o build/bench-proxy ./test/bench/proxy && build/bench-proxy -rounds $(ROUNDS) -scenarios '^observability$$' -out build/bench/observability.json

PODS ?= 1,10,50
.PHONY: bench-placement
bench-placement: packages ## cost of shared proxies and of proxies beside pods with PODS in each of two namespaces, in network namespaces of its own
	@go build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/weft-proxy ./cmd/weft-proxy && go build -o build/bench-placement ./test/bench/placement && \
	build/bench-placement -pods '$(PODS)' -proxy $(BIN)/weft-proxy

.PHONY: bench-nodeloss
bench-nodeloss: mesh ## how long requests fail after a node is lost without notice
	@go test -tags e2e -count=1 -v -run '^TestNodeLoss$$' ./test/e2e -args -figures $(CURDIR)/build/bench/nodeloss.json
