# One static binary in an empty image.
#   docker build -t cubecast .
#   docker run --rm cubecast --help

FROM rust:1.95-slim-bookworm AS builder
WORKDIR /build
# The image's own toolchain builds: rust-toolchain.toml, which would ask for rustfmt and clippy too, is not in the context.
COPY . .
# Naming the target keeps the static C library away from build scripts and macros. Since glibc 2.34 a static program resolves names by
# itself, from /etc/hosts and by DNS, without shared libraries.
RUN set -eu; \
    target="$(rustc --version --verbose | sed -n 's/^host: //p')"; \
    RUSTFLAGS='-C target-feature=+crt-static -C strip=debuginfo' cargo build --release --locked --bin cubecast --target "$target"; \
    mkdir -p /image/data; \
    cp "target/$target/release/cubecast" /image/cubecast

FROM scratch
COPY --from=builder /image/cubecast /cubecast
# A new volume takes the owner of the folder that it covers.
COPY --from=builder --chown=65532:65532 /image/data /data
USER 65532:65532
ENV CUBECAST_LISTEN_HOST=0.0.0.0 \
    CUBECAST_DATA_DIR=/data
VOLUME ["/data"]
EXPOSE 8000-8007
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=2s --start-period=5s --retries=3 CMD ["/cubecast", "health"]
ENTRYPOINT ["/cubecast"]
CMD ["node"]
