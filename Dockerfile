# The host and the schemas, nothing else: handlers are built elsewhere and mounted.
#
#     docker build -t sandbar .
#     docker run -v "$PWD/sandbar.toml:/srv/sandbar/sandbar.toml:ro" -v "$PWD/handlers:/srv/sandbar/handlers:ro" sandbar

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package sandbar \
 && install -D --strip target/release/sandbar /out/usr/local/bin/sandbar \
 && mkdir -p /out/srv/sandbar \
 && cp -r schemas LICENSE /out/srv/sandbar/

FROM debian:bookworm-slim
# For rediss:// with certificates of public authorities.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /
# /data is for the embedded bus: `bus.url = "sqlite:/data/events.db"`.
RUN useradd --system --uid 10001 --no-create-home --home-dir /srv/sandbar --shell /usr/sbin/nologin sandbar \
 && install -d -o sandbar -g sandbar /data
WORKDIR /srv/sandbar
ENV SANDBAR_CONFIG=/srv/sandbar/sandbar.toml
VOLUME /data
USER 10001
STOPSIGNAL SIGTERM
# `status` asks the bus as the host sees it and compiles no module, so it is cheap enough to run twice a minute. It fails
# when the configuration cannot be read or the bus cannot be reached.
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 \
    CMD ["sandbar", "status", "--json"]
ENTRYPOINT ["sandbar"]
CMD ["run"]
