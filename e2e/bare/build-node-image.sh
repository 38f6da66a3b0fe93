#!/bin/bash
# build-node-image.sh WORK BIN -> WORK/node.tar: a kind node without Docker or a registry.
# BIN holds Kubernetes, etcd, CoreDNS, containerd and local-path-provisioner. In the environment: KUBERNETES (v1.x.y), KIND_SOURCES
# (kind's module), PACK (a command that writes an image: PACK OUT NAME ENTRYPOINT_JSON ROOT), and MIRROR (of Debian; else apt's).
# Images are these binaries under the names that kubeadm and kind ask for, so nothing is ever pulled.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); W=$1 B=$2
: "${KUBERNETES:?}" "${KIND_SOURCES:?}" "${PACK:?}"
MIRROR=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -n 1)}
: "${MIRROR:?no Debian mirror; name one}"
suite=bookworm
say() { echo "  $*"; }

# --- a Debian with what a node needs; kept, since it takes a minute and changes seldom
packages=systemd,iproute2,iptables,nftables,conntrack,ethtool,socat,mount,kmod,procps,util-linux,jq,ca-certificates,runc,containernetworking-plugins,e2fsprogs,curl,busybox-static,bash
if ! [ -e "$W/rootfs.done" ]; then
  say "debootstrap $suite"
  rm -rf "$W/rootfs"
  unshare --mount --propagation private debootstrap --variant=minbase --include=$packages $suite "$W/rootfs" "$MIRROR" > "$W/debootstrap.log" 2>&1 \
    || { tail -n 20 "$W/debootstrap.log" >&2; exit 1; }
  touch "$W/rootfs.done"
fi
R=$W/root; rm -rf "$R"; cp -a "$W/rootfs" "$R"
rm -rf "$R"/var/cache/apt/* "$R"/var/lib/apt/lists/* "$R"/usr/share/{doc,man,locale,info}/* "$R"/usr/lib/sysctl.d/*

# --- what kind's base image does
say "base"
cp -r --no-preserve=mode,ownership "$KIND_SOURCES/images/base/files"/. "$R"/
chmod 755 "$R"/usr/local/bin/{entrypoint,clean-install} "$R"/kind/bin/*.sh
find "$R"/lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete
rm -f "$R"/lib/systemd/system/multi-user.target.wants/* "$R"/etc/systemd/system/*.wants/* "$R"/lib/systemd/system/local-fs.target.wants/* \
      "$R"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* "$R"/lib/systemd/system/basic.target.wants/*
echo ReadKMsg=no >> "$R/etc/systemd/journald.conf"; ln -sf /usr/lib/systemd/systemd "$R/sbin/init"
units=$R/etc/systemd/system; mkdir -p "$units/multi-user.target.wants"
for u in kubelet containerd undo-mount-hacks; do ln -s "/etc/systemd/system/$u.service" "$units/multi-user.target.wants/"; done
ln -sf /dev/null "$units/systemd-binfmt.service"
mkdir -p "$R"/etc/kubernetes/manifests "$R"/opt/cni "$R"/kind/manifests "$R"/etc/cni/net.d; ln -s /usr/lib/cni "$R/opt/cni/bin"
install -m755 "$B"/{containerd,ctr,containerd-shim-runc-v2} "$R/usr/local/bin/"
install -m755 "$here/crictl-shim.sh" "$R/usr/local/bin/crictl"
install -m755 "$B"/{kubeadm,kubelet,kubectl} "$R/usr/bin/"
"$B/ctr" oci spec | jq '.hooks.createContainer[.hooks.createContainer|length] |= . + {"path":"/kind/bin/mount-product-files.sh"}' | jq 'del(.process.rlimits)' > "$R/etc/containerd/cri-base.json"
printf %s "$KUBERNETES" > "$R/kind/version"

# --- for machines without CAP_SYS_RESOURCE and with control groups v1; and the machine's sysctls are not the node's. In the
#     image, so that kind.yaml is the same everywhere.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$R/etc/containerd/config.toml"
echo 'KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service --fail-cgroupv1=false --oom-score-adj=0' > "$R/etc/default/kubelet"
install -m755 "$here/protect-host-sysctls.sh" "$R/kind/bin/"
sed -i "s#^log_info 'starting init'#/kind/bin/protect-host-sysctls.sh\n&#" "$R/usr/local/bin/entrypoint"; grep -q protect-host "$R/usr/local/bin/entrypoint"
# kube-proxy and CNI below use iptables-nft: the node must choose it too when neither backend has rules yet.
sed -i 's/"${num_legacy_lines}" -ge "${num_nft_lines}"/"${num_legacy_lines}" -gt "${num_nft_lines}"/' "$R/usr/local/bin/entrypoint"; grep -q -- '-gt "${num_nft' "$R/usr/local/bin/entrypoint"

# --- manifests, which kind keeps as constants of Go
cp "$here/default-cni.yaml" "$R/kind/manifests/"
S=$KIND_SOURCES/pkg/build/nodeimage/const_storage.go
provisioner=$(sed -n 's/^const storageProvisionerImage = "\(.*\)"/\1/p' "$S"); helper=$(sed -n 's/^const storageHelperImage = "\(.*\)"/\1/p' "$S")
awk '/^const defaultStorageManifest = `/{p=1;next} /^`/{p=0} p' "$S" | sed "s#\` + storageProvisionerImage + \`#$provisioner#; s#\` + storageHelperImage + \`#$helper#g" > "$R/kind/manifests/default-storage.yaml"

# --- images
say "images"
I=$W/img; rm -rf "$I"; mkdir -p "$I"
with_libraries() { # DEST PROGRAM...: programs of the rootfs with their shared libraries
  local d=$1 b l; shift
  for b in "$@"; do mkdir -p "$d$(dirname "$b")"; cp -L "$R$b" "$d$b"
    # shellcheck disable=SC2086
    for l in $(chroot "$R" ldd "$b" ${LIBS_OF:-} 2>/dev/null | grep -o '/[^ :]*' | sort -u); do mkdir -p "$d$(dirname "$l")"; cp -L "$R$l" "$d$l"; done; done; }
one() { mkdir -p "$I/$1/usr/local/bin"; install -m755 "$B/$1" "$I/$1/usr/local/bin/"; }
for c in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd coredns local-path-provisioner; do one $c; done
mkdir -p "$I/pause" "$I/helper/bin" "$I/kind-cni"; gcc -static -Os -s -o "$I/pause/pause" "$here/pause.c"
# Not all applets: `busybox --list` has busybox itself, and a link would take the program's place.
shell() { mkdir -p "$1/bin"; cp -L "$R/bin/busybox" "$1/bin/busybox"; for a in sh mkdir rm ls cat sleep echo mv ip true cp chmod; do ln -s busybox "$1/bin/$a"; done; }
shell "$I/helper"; one kubectl; mv "$I/kubectl/usr" "$I/kind-cni/"; rmdir "$I/kubectl"; shell "$I/kind-cni"
install -m755 "$here/kind-cni.sh" "$I/kind-cni/usr/local/bin/"
for d in kube-proxy kind-cni; do
  # libxt_statistic needs libm; without it the first Service with two endpoints breaks every later iptables-restore.
  LIBS_OF=/usr/lib/x86_64-linux-gnu/xtables/libxt_statistic.so with_libraries "$I/$d" /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi /usr/sbin/nft /usr/sbin/conntrack
  mkdir -p "$I/$d/usr/lib/x86_64-linux-gnu" "$I/$d/run" "$I/$d/tmp" "$I/$d/etc"; cp -r "$R/usr/lib/x86_64-linux-gnu/xtables" "$I/$d/usr/lib/x86_64-linux-gnu/"
  for a in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do ln -s xtables-nft-multi "$I/$d/usr/sbin/$a"; done
  cp "$R/etc/"{protocols,services} "$I/$d/etc/" 2>/dev/null || true
done
for c in kube-apiserver kube-controller-manager kube-scheduler coredns etcd local-path-provisioner; do mkdir -p "$I/$c/tmp" "$I/$c/etc"; done
sandbox=$(sed -n 's/.*sandbox_image = "\(.*\)"/\1/p' "$R/etc/containerd/config.toml")
# shellcheck disable=SC2086
make_image() { $PACK "$I/$1.tar" "$2" "$3" "$I/$1"; }
"$B/kubeadm" config images list --kubernetes-version "$KUBERNETES" 2>/dev/null | while read -r n; do
  case $n in */pause:*) ;; *) b=${n##*/}; b=${b%%:*}; make_image "$b" "$n" "[\"/usr/local/bin/$b\"]";; esac; done
make_image pause "$sandbox" '["/pause"]'
make_image local-path-provisioner "$provisioner" '["/usr/local/bin/local-path-provisioner"]'
make_image helper "$helper" '["/bin/sh"]'
make_image kind-cni localhost/kind-cni:1 '["/usr/local/bin/kind-cni.sh"]'

# --- into the node's containerd, by a containerd of our own that only writes
say "preload"
mkdir -p "$R/var/lib/containerd"; st=$(mktemp -d)
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri","io.containerd.nri.v1.nri"]\n' > "$st/c.toml"
"$B/containerd" -c "$st/c.toml" --root "$R/var/lib/containerd" --state "$st/state" -a "$st/s.sock" > "$W/containerd.log" 2>&1 & daemon=$!
trap 'kill $daemon 2>/dev/null || true' EXIT
for _ in $(seq 100); do [ -S "$st/s.sock" ] && break; sleep 0.1; done
for f in "$I"/*.tar; do "$B/ctr" -a "$st/s.sock" -n k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests "$f" > /dev/null; done
kill $daemon; wait $daemon || true; trap - EXIT; rm -rf "$st" "$I"

tar -C "$R" --numeric-owner -cf "$W/node.tar" .
rm -rf "$R"
say "$(du -h "$W/node.tar" | cut -f1) node.tar"
