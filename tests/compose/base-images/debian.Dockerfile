# Debian with this machine's certificates and mirror, for the images below: where no registry of
# images is reachable, they take the names of the official ones. Debian's packages are in them, and
# what docker-compose.yml uses of the official images' behaviour.
FROM scratch
ADD tree.tar /
