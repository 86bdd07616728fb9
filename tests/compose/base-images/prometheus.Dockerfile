# As in https://github.com/prometheus/prometheus/blob/main/Dockerfile: user, folder, arguments.
FROM paybus-test/debian:forky
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends prometheus > /dev/null \
 && rm -rf /var/lib/apt/lists/* && install -d -o nobody -g nogroup /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
