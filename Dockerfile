# Egret in a small image:
#   docker build -t egret .
#   docker run -p 9200:9200 -v egret:/data -e EGRET_POSTGRES_URL=postgres://me@db/shop egret
FROM rust:1.95-bookworm AS build
WORKDIR /egret
COPY . .
RUN cargo build --release --locked --package egret-server --bin egret

FROM debian:bookworm-slim
RUN useradd --system --home-dir /data --create-home egret
COPY --from=build /egret/target/release/egret /usr/local/bin/egret
USER egret
VOLUME /data
EXPOSE 9200
ENTRYPOINT ["egret", "serve", "--data", "/data", "--listen", "0.0.0.0:9200"]
