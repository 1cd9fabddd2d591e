# Images of Weft's programs, one target each:
#
#   docker build --target weft-operator --build-arg VERSION=v0.1.0 -t example/weft-operator:v0.1.0 .
#
# and likewise weft-proxy and weft-node. "make docker-build" builds all three.
FROM --platform=$BUILDPLATFORM golang:1.27 AS build
ARG TARGETOS TARGETARCH
ARG VERSION=v0.1.0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api/ api/
COPY cmd/ cmd/
COPY config/node/ config/node/
COPY controllers/ controllers/
COPY proxy/ proxy/
COPY webhooks/ webhooks/
RUN CGO_ENABLED=0 GOOS=${TARGETOS:-linux} GOARCH=${TARGETARCH} go build -tags grpcnotrace -trimpath \
    -ldflags "-s -w -X weft.dev/weft/proxy/wire.Build=${VERSION}" \
    -o /out/ ./cmd/weft-operator ./cmd/weft-proxy ./cmd/weft-node

FROM gcr.io/distroless/static:nonroot AS weft-operator
COPY --from=build /out/weft-operator /usr/local/bin/weft-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weft-operator"]

FROM gcr.io/distroless/static:nonroot AS weft-proxy
COPY --from=build /out/weft-proxy /usr/local/bin/weft-proxy
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weft-proxy"]

# The node agent runs as root, with two capabilities, to reach the runtime's sockets and the pods'
# network namespaces; its DaemonSet says so.
FROM gcr.io/distroless/static AS weft-node
COPY --from=build /out/weft-node /usr/local/bin/weft-node
ENTRYPOINT ["/usr/local/bin/weft-node"]
