# As in https://github.com/docker-library/rabbitmq/tree/master/4.2/ubuntu: user, folder, plugins, logs.
FROM paybus-test/debian:forky
RUN groupadd --gid 999 --system rabbitmq && useradd --uid 999 --system --home-dir /var/lib/rabbitmq --gid rabbitmq rabbitmq \
 && apt-get -qq update && apt-get -qq install -y --no-install-recommends rabbitmq-server > /dev/null \
 && rm -rf /var/lib/apt/lists/* /var/lib/rabbitmq/* /var/log/rabbitmq/* \
 && echo '[rabbitmq_management,rabbitmq_prometheus].' > /etc/rabbitmq/enabled_plugins \
 && install -d -o rabbitmq -g rabbitmq -m 0777 /var/lib/rabbitmq
ENV PATH=/usr/lib/rabbitmq/bin:$PATH HOME=/var/lib/rabbitmq RABBITMQ_LOGS=-
VOLUME /var/lib/rabbitmq
CMD ["rabbitmq-server"]
