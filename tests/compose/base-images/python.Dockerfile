FROM paybus-test/debian:trixie
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-pip python3-venv > /dev/null \
 && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/EXTERNALLY-MANAGED \
 && ln -s /usr/bin/python3 /usr/local/bin/python
# The official image's pip and uv know the public authorities; these know this machine's, too.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
CMD ["python"]
