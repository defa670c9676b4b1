#!/usr/bin/env bash
# A container engine for a machine that has none. As root, on Debian 12.
#   eval "$(engine.sh up DIR)"   starts one under DIR, whose path is short, and sets DOCKER_HOST
#   engine.sh down DIR           stops it, and leaves the network as it was
# An engine that answers already is used, and `down` leaves it alone. Plugins that are missing come
# from Debian, and so does what stands in for the base image where no registry has it.
set -euo pipefail
base=${SEQSERVE_BASE_IMAGE:-python:3.11-slim-bookworm}
tar=${SEQSERVE_BASE_TAR:-/var/cache/seqserve-base-bookworm.tar}
sources=/etc/apt/sources.list.d/debian.sources

install() {  # PACKAGE...
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@"; } >/dev/null
}

answers() { docker version >/dev/null 2>&1; }

waits_for() {  # COMMAND...
  for _ in $(seq 300); do "$@" && return; sleep 0.2; done
  return 1
}

bridges() { ip -brief link show type bridge | awk '{ print $1 }'; }

start() {  # DIR
  mkdir -p "$1"
  # dockerd does not take back what it does to the network.
  { iptables-save -t filter && iptables-save -t nat; } >"$1/firewall"
  cat /proc/sys/net/ipv4/ip_forward >"$1/forward"
  bridges >"$1/bridges"
  setsid dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "$DOCKER_HOST" \
    </dev/null >"$1/log" 2>&1 &
  waits_for answers || { tail -n 5 "$1/log" >&2; exit 1; }
}

plugins() {  # Debian 12 has neither; those of Debian 13 run on it.
  docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
  local t into=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  t=$(mktemp -d) && mkdir -p "$t"/{sources,lists/partial,cache/archives/partial} "$into"
  sed 's/bookworm-updates//; s/bookworm/trixie/g' $sources >"$t/sources/trixie.sources"
  (
    cd "$t"
    apt="apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$t/sources
      -o Dir::State::lists=$t/lists -o Dir::Cache=$t/cache"
    { $apt update && $apt download docker-compose docker-buildx; } >/dev/null 2>&1
    for package in *.deb; do dpkg -x "$package" .; done
    cp usr/libexec/docker/cli-plugins/* "$into"
  )
  rm -rf "$t"
}

base_image() {  # Debian's own Python, trusting whom this machine trusts.
  docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet "$base" >/dev/null 2>&1 && return
  if [ ! -s "$tar" ]; then
    command -v mmdebstrap >/dev/null || install mmdebstrap
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
      --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' \
      --customize-hook='cd "$1" && rm -rf usr/lib/python3*/EXTERNALLY-MANAGED var/lib/apt/lists/* var/cache/apt/*
        ln -s /usr/bin/python3 usr/local/bin/python3 && ln -s /usr/bin/python3 usr/local/bin/python
        ln -s /usr/bin/pip3 usr/local/bin/pip && cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
        printf "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nroot-user-action = ignore\n" >etc/pip.conf' \
      bookworm "${tar%.tar}.part.tar" $sources
    mv "${tar%.tar}.part.tar" "$tar"
  fi
  docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' "$tar" "$base" >/dev/null
}

[ $# = 2 ] || { sed -n 2,4p "$0" >&2; exit 2; }
directory=$(realpath -m "$2")
case $1 in
up)
  command -v dockerd >/dev/null || answers || install docker.io iptables
  if ! answers; then
    export DOCKER_HOST=unix://$directory/socket
    answers || start "$directory"
    echo "export DOCKER_HOST=$DOCKER_HOST"
  fi
  plugins
  base_image
  ;;
down)
  [ -s "$directory/pid" ] || exit 0
  pid=$(cat "$directory/pid")
  gone() { ! kill -0 "$pid" 2>/dev/null; }
  kill "$pid" && waits_for gone
  awk -v d="$directory/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
  bridges | grep -vxF -f "$directory/bridges" | xargs -r -n 1 ip link delete
  iptables-restore <"$directory/firewall"
  cat "$directory/forward" >/proc/sys/net/ipv4/ip_forward
  rm -rf "$directory"
  ;;
*)
  sed -n 2,4p "$0" >&2
  exit 2
  ;;
esac
