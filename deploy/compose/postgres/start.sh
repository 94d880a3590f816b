#!/bin/sh
# PostgreSQL of the platform, as user 10001 with a read-only root. Everything that decides who may connect
# comes from the provisioner, below /run/ringwall; the data is in a volume of its own.
set -eu
PATH=/usr/lib/postgresql/15/bin:$PATH # before Debian's wrappers, which are written in Perl
run=/run/ringwall
data=/var/lib/postgresql/data/cluster

# A new cluster is made aside and renamed: a crash leaves none or a whole one.
if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf "$data.new"
    initdb --pgdata "$data.new" --username ringwall --auth-local=peer --auth-host=scram-sha-256 \
        --data-checksums --encoding=UTF8 --locale=C.UTF-8 --no-instructions
    mv "$data.new" "$data"
fi

# Roles and databases, before anybody can connect over the network.
pg_ctl start --pgdata "$data" --silent --wait --options "-c config_file=$run/postgresql.conf -c listen_addresses="
psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 \
    --host /tmp --port "$PGPORT" --username ringwall --dbname postgres --file "$run/roles.sql" >/dev/null
pg_ctl stop --pgdata "$data" --silent --wait --mode fast

# Certificates are replaced every half hour at the latest: the server reads them again when they are new.
(
    seen=$(stat -c %Y "$run/tls/server.pem")
    while sleep 5; do
        now=$(stat -c %Y "$run/tls/server.pem") || continue
        [ "$now" = "$seen" ] || { seen=$now && kill -HUP 1; }
    done
) &
exec postgres -D "$data" -c config_file="$run/postgresql.conf"
