# syntax=docker/dockerfile:1
#
#   docker build -t pingora-unix-proxy .                 the proxy alone: one static binary
#   docker build -t pingora-unix-proxy:node --target node .     with Node.js, to build an app's image on
#   docker build -t pingora-unix-proxy:copy --target copy .     with cp, for an init container that hands out the binary
#
# docs/deployment.md says how to run them and how to put the binary into an image of your own.

# ---- build: a binary that needs no library of the image that it will run in

FROM rust:1.95-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl"
# For C code of dependencies: zlib-ng, zstd, ring.
ENV TARGET_CC=musl-gcc
WORKDIR /build

# A layer of its own for the dependencies: it stays while Cargo.toml and Cargo.lock do. Cargo wants to see every
# target that Cargo.toml names.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches \
    && touch src/lib.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs benches/heads.rs \
    && cargo build --release --locked --target "$(uname -m)-unknown-linux-musl" --bin pingora-unix-proxy

COPY benches benches
COPY src src
# Cargo goes by the time of the files.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --target "$(uname -m)-unknown-linux-musl" --bin pingora-unix-proxy \
    && cp "target/$(uname -m)-unknown-linux-musl/release/pingora-unix-proxy" /usr/local/bin/ \
    && pingora-unix-proxy --version
# What an image without a shell cannot make: the runtime directory's parent, and names for the user. Container engines give
# a tmpfs the mode of the directory below it, but root's ownership: so anybody may make a runtime directory in it, for
# that alone has secrets and is private.
RUN install -d -m 1777 /image/run/proxy /image/tmp \
    && install -d /image/etc \
    && echo 'proxy:x:10001:10001::/:/' >/image/etc/passwd \
    && echo 'proxy:x:10001:' >/image/etc/group

# ---- node: the proxy as the entry point of a Node.js app

FROM node:22-bookworm-slim AS node
LABEL org.opencontainers.image.title="pingora-unix-proxy" \
      org.opencontainers.image.description="Edge proxy and process manager for Node.js apps: workers on Unix sockets, sticky Socket.IO sessions" \
      org.opencontainers.image.licenses="Apache-2.0"
# For webhooks of alarms over https: slim images have no authorities.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/local/bin/pingora-unix-proxy /usr/local/bin/
RUN install -d -m 1777 /run/proxy
WORKDIR /app
USER 10001:10001
# The runtime directory is made in it: the only place that must be writable. HOME is where Node.js tools look.
ENV XDG_RUNTIME_DIR=/run/proxy \
    HOME=/tmp \
    NODE_ENV=production
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["pingora-unix-proxy", "health", "-c", "/app/conf.yaml"]
ENTRYPOINT ["pingora-unix-proxy"]
CMD ["-c", "/app/conf.yaml"]

# ---- copy: an image that can copy the binary into a volume

FROM busybox:1.37-musl AS copy
LABEL org.opencontainers.image.title="pingora-unix-proxy" \
      org.opencontainers.image.description="Hands out the binary of pingora-unix-proxy" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /usr/local/bin/pingora-unix-proxy /usr/local/bin/
USER 10001:10001
CMD ["cp", "/usr/local/bin/pingora-unix-proxy", "/opt/proxy/"]

# ---- the proxy alone, and the default: for sidecars, and for COPY --from in other Dockerfiles

FROM scratch AS proxy
LABEL org.opencontainers.image.title="pingora-unix-proxy" \
      org.opencontainers.image.description="Edge proxy and process manager: workers on Unix sockets, sticky Socket.IO sessions" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# For webhooks of alarms over https.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/local/bin/pingora-unix-proxy /usr/local/bin/
USER 10001:10001
ENV PATH=/usr/local/bin \
    XDG_RUNTIME_DIR=/run/proxy
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["pingora-unix-proxy", "health", "-c", "/etc/pingora-unix-proxy/conf.yaml"]
ENTRYPOINT ["pingora-unix-proxy"]
CMD ["-c", "/etc/pingora-unix-proxy/conf.yaml"]
