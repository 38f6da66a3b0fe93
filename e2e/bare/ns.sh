#!/bin/bash
# ns.sh start | run [--] CMD... | stop
# Mount and network namespaces in which podman, kind, kubectl and the suite run together, so that bridges, rules and mounts of
# containers never touch the machine's own. MEW_BARE keeps podman's images and configuration.
set -eu
D=${MEW_BARE:?the directory of podman\'s storage}; mkdir -p "$D"
alive() { [ -s "$D/pid" ] && kill -0 "$(cat "$D/pid")" 2>/dev/null; }
case $1 in
start)
  alive && exit 0
  # No systemd, no control groups v2 and no CAP_SYS_RESOURCE are expected of the machine.
  cat > "$D/containers.conf" <<C
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "$D/net"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
C
  cat > "$D/storage.conf" <<C
[storage]
driver = "overlay"
graphroot = "$D/storage"
runroot = "$D/run"
C
  # kind mounts it into nodes; a kernel without modules has none.
  [ -d /lib/modules ] || { mkdir /lib/modules; touch "$D/made-lib-modules"; }
  # Private first: nothing that is mounted in there may appear outside. Then shared among those inside, as nodes need it.
  # shellcheck disable=SC2016
  setsid unshare --mount --net --propagation private sh -c '
    mount --make-rshared /
    ip link set lo up
    echo 1 > /proc/sys/net/ipv4/ip_forward
    mount -t tmpfs tmpfs /run
    mkdir -p /run/lock /run/netns
    touch /run/mew-bare
    exec sleep infinity' </dev/null >/dev/null 2>&1 &
  echo $! > "$D/pid"
  for _ in $(seq 100); do
    nsenter -t "$(cat "$D/pid")" -m -- test -e /run/mew-bare 2>/dev/null && exit 0
    sleep 0.1
  done
  echo "the namespaces did not come up" >&2; exit 1;;
run)
  shift; [ "${1:-}" != -- ] || shift
  exec env CONTAINERS_CONF="$D/containers.conf" CONTAINERS_STORAGE_CONF="$D/storage.conf" KIND_EXPERIMENTAL_PROVIDER=podman \
    nsenter -t "$(cat "$D/pid")" -m -n --wd="$PWD" -- "$@";;
stop)
  alive && kill "$(cat "$D/pid")"
  rm -f "$D/pid"
  # What podman leaves of control groups v1.
  for c in /sys/fs/cgroup/*/libpod_parent; do
    [ ! -d "$c" ] || rmdir "$c/conmon" "$c" 2>/dev/null || true
  done
  [ ! -e "$D/made-lib-modules" ] || { rmdir /lib/modules 2>/dev/null || true; rm -f "$D/made-lib-modules"; };;
*) echo "usage: ns.sh start|run|stop" >&2; exit 2;;
esac
