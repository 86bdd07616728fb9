# As in https://github.com/docker-library/postgres/blob/master/18/trixie/Dockerfile: user, folders, PGDATA, signal.
FROM paybus-test/debian:forky
RUN groupadd --gid 999 --system postgres && useradd --uid 999 --system --home-dir /var/lib/postgresql --gid postgres postgres \
 && mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
 && apt-get -qq update && apt-get -qq install -y --no-install-recommends postgresql-18 > /dev/null \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* \
 && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /docker-entrypoint-initdb.d /var/run/postgresql
COPY postgres-entrypoint.sh /usr/local/bin/
ENV PATH=/usr/lib/postgresql/18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/usr/local/bin/postgres-entrypoint.sh"]
CMD ["postgres"]
