#!/bin/sh -e
# Builds the disk of an ordinary Debian machine with everything that the suites need:
#   build.sh SUITE DIRECTORY SOURCE
# makes DIRECTORY/{disk,vmlinuz,initrd.img,key,key.pub} of a Debian SUITE, from the source tree SOURCE.
# The machine reaches apt, pip and the network's certificates as this one does: their settings are copied.
suite=$1
directory=$2
source=$3
root=$directory/root

settings= # of apt: the files of this machine that no package owns
for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*; do
    [ ! -f "$file" ] || dpkg-query --search "$file" >/dev/null 2>&1 || settings="$settings --aptopt=$file"
done
sources= # of the same release; another one comes from Debian's own servers
# shellcheck source=/dev/null
if [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" = "$suite" ]; then
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
        [ ! -s "$file" ] || sources="$sources $file"
    done
fi

mkdir -p "$directory"
ssh-keygen -q -t ed25519 -N '' -f "$directory/key"
git -C "$source" archive --format=tar --output="$directory/source.tar" HEAD
# The packages that Debian's installer installs, and netplan; then the packages that the suites themselves install.
# Of those the lab starts etcd and Prometheus itself. perf(1) shows where the measures spend their time.
# shellcheck disable=SC2086,SC2016  # lists of words; $1 is the hook's
mmdebstrap --variant=minbase --components=main $settings \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=apparmor,ca-certificates,dbus,ifupdown,iproute2,iputils-ping,isc-dhcp-client,kmod,less,libpam-systemd \
    --include=linux-image-amd64,linux-perf,make,netplan.io,nftables,openssh-server,procps,python3-venv,systemd-sysv,udev,git \
    --customize-hook="'$(dirname "$0")/settings.sh' "'"$1"' \
    --customize-hook='mkdir -p "$1/root/ovn-docker"' \
    --customize-hook="tar -C \"\$1/root/ovn-docker\" -xf '$directory/source.tar'" \
    --customize-hook='chroot "$1" sh -ec "cd /root/ovn-docker; scripts/debian-packages test; scripts/debian-packages bench; scripts/virtualenv .venv --editable .[test]"' \
    --customize-hook='chroot "$1" systemctl disable etcd prometheus' \
    --customize-hook='chroot "$1" apt-get clean' \
    "$suite" "$root" $sources

install -D -m 600 "$directory/key.pub" "$root/root/.ssh/authorized_keys"
cp "$root"/boot/vmlinuz-* "$directory/vmlinuz"
cp "$root"/boot/initrd.img-* "$directory/initrd.img"
echo ordinary >"$root/etc/hostname"
echo '127.0.0.1 localhost ordinary' >"$root/etc/hosts"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf" # QEMU's
printf 'auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
truncate -s 16G "$directory/disk"
mke2fs -q -F -t ext4 -E lazy_itable_init=1,root_owner=0:0 -d "$root" "$directory/disk"
rm -rf "$root" "$directory/source.tar"
