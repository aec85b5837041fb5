#!/bin/sh
# What the entry of the Postgres image of Docker Hub does for the settings that the chart gives it: makes the cluster and
# the database POSTGRES_DB the first time, then becomes the server. Runs as an unprivileged user only.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # A start that was cut off here is begun anew: the folder appears in one step.
  staging="$PGDATA.staging"
  rm -rf "$staging"
  mkdir -p "$staging" && chmod 700 "$staging"
  printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
  initdb --pgdata="$staging" --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-instructions
  rm /tmp/password
  if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "$POSTGRES_DB" | postgres --single -D "$staging" postgres
  fi
  echo 'host all all all scram-sha-256' >> "$staging/pg_hba.conf"
  echo "listen_addresses = '*'" >> "$staging/postgresql.conf"
  echo "unix_socket_directories = '/var/run/postgresql'" >> "$staging/postgresql.conf"
  mv "$staging" "$PGDATA"
fi
# Kubernetes gives the group rights over a volume at each mount, and Postgres refuses them.
chmod 700 "$PGDATA"
exec "$@"
