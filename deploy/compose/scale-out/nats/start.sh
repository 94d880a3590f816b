#!/bin/sh
# Starts the broker; `--healthy` asks it how it is. A watcher beside it sends SIGHUP when a file of the identity has been
# replaced: the server then reads its certificate again and keeps its connections. A reload between the renames of key and
# certificate fails and changes nothing; the next look finds the other file new and tries again.
set -eu
identity=/run/ringwall/identity

if [ "${1:-}" = --healthy ]; then
  if command -v wget >/dev/null; then
    exec wget -q -O /dev/null http://127.0.0.1:8222/healthz
  fi
  exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/8222 && printf "GET /healthz HTTP/1.0\r\n\r\n" >&3 && head -1 <&3 | grep -q " 200 "'
fi

state() { cksum "$identity"/*.pem "$identity"/svid.key 2>/dev/null || true; }

watch() {
  known=$(state)
  while sleep "${RINGWALL_WATCH_SECONDS:-10}"; do
    now=$(state)
    if [ "$now" != "$known" ]; then
      known=$now
      kill -HUP 1
    fi
  done
}

mkdir -p /tmp/nats
watch &
exec nats-server --config /etc/nats/nats.conf
