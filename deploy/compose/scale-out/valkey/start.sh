#!/bin/sh
# Starts the cache; `--healthy` asks it how it is, over TLS as everybody else does. A watcher beside it makes the server read
# its certificate again when a file of the identity has been replaced; connections stay. For that it has a user of its own
# with one command and a random password that is made here, at each start, and never written: only its hash is.
set -eu
identity=/run/ringwall/identity
server=$(command -v valkey-server || command -v redis-server)
cli=$(command -v valkey-cli || command -v redis-cli)

if [ "${1:-}" = --healthy ]; then
  answer=$(printf 'AUTH operator -\nPING\n' | "$cli" --tls -p 6379 \
    --cert "$identity/svid.pem" --key "$identity/svid.key" --cacert "$identity/bundle.pem")
  case $answer in *PONG*) exit 0 ;; *) echo "$answer"; exit 1 ;; esac
fi

state() { cksum "$identity"/*.pem "$identity"/svid.key 2>/dev/null || true; }

reload() {
  printf 'AUTH reload %s\nCONFIG SET tls-cert-file %s tls-key-file %s tls-ca-cert-file %s\n' \
    "$password" "$identity/svid.pem" "$identity/svid.key" "$identity/bundle.pem" | "$cli" -s /run/valkey/socket
}

watch() {
  known=$(state)
  while sleep "${RINGWALL_WATCH_SECONDS:-10}"; do
    now=$(state)
    if [ "$now" != "$known" ]; then
      # Between the renames of key and certificate it is refused; then the next look tries again.
      case $(reload) in *OK*OK*) known=$now; echo "certificate taken over" ;; *) echo "certificate not taken over yet" ;; esac
    fi
  done
}

password=$(head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1)
hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
{
  cat /etc/valkey/users.acl
  echo "user reload on #$hash resetkeys resetchannels -@all +config|set"
} >/run/valkey/users.acl
watch &
exec "$server" /etc/valkey/valkey.conf
