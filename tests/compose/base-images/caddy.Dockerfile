# As in https://github.com/caddyserver/caddy-docker/blob/master/2.10/alpine/Dockerfile: folders, capability, arguments.
FROM paybus-test/debian:forky
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends caddy libcap2-bin > /dev/null \
 && rm -rf /var/lib/apt/lists/* && mkdir -p /config/caddy /data/caddy && setcap cap_net_bind_service=+ep /usr/bin/caddy
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
VOLUME /config /data
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
