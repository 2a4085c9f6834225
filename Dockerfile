# An image with the proxy alone. Apps bring their own runtime; a Node.js app's Dockerfile takes the binary from here:
#
#   FROM node:20-bookworm-slim
#   COPY --from=pingora-unix-proxy /usr/local/bin/pingora-unix-proxy /usr/local/bin/
#   COPY . /app
#   USER node
#   ENV XDG_RUNTIME_DIR=/tmp
#   STOPSIGNAL SIGTERM
#   ENTRYPOINT ["pingora-unix-proxy", "-c", "/app/conf.yaml"]
#
# In a container the listener must be 0.0.0.0, not 127.0.0.1.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock README.md ./
COPY src src
# The caches live in the builder and not in the image, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin pingora-unix-proxy \
    && cp target/release/pingora-unix-proxy /usr/local/bin/

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin proxy \
    && install -d -o proxy -g proxy -m 0700 /run/proxy
COPY --from=build /usr/local/bin/pingora-unix-proxy /usr/local/bin/
USER 10001
# Where the runtime directory (worker sockets, control socket) is made.
ENV XDG_RUNTIME_DIR=/run/proxy
EXPOSE 8000
# Ends workers and connections in order; give it more time than drain_timeout and stop_timeout together.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/pingora-unix-proxy"]
CMD ["-c", "/etc/pingora-unix-proxy/conf.yaml"]
