# As in https://github.com/prometheus/alertmanager/blob/main/Dockerfile: user, folder, arguments.
FROM paybus-test/debian:forky
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends prometheus-alertmanager > /dev/null \
 && rm -rf /var/lib/apt/lists/* && install -d -o nobody -g nogroup /alertmanager
USER nobody
VOLUME /alertmanager
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
