#!/bin/sh -e
# The first process of a host: builds its file system, prints its process id outside, and becomes init.
# NAME, ADDRESSES: its own; GROUP: its control group; SYSTEM: the file system underneath, which stays as it
# is; DISK: the directory that keeps what it writes; SHARED: paths, one per line, of what it sees as it is
# outside, read-only.

# Processes may be in the leaves of cgroup2 alone ("no internal processes", the kernel's cgroup-v2.rst): the
# group is the root that the host sees, its own processes are in the child "init", and Docker makes others.
case $1 in
    '')
        [ ! -d "$GROUP" ] || find "$GROUP" -depth -type d -delete # a power cut leaves groups, a boot finds none
        mkdir "$GROUP" "$GROUP/init"
        echo 0 > "$GROUP/cgroup.procs"
        exec unshare --cgroup sh -e "$0" rooted
        ;;
    rooted)
        echo 0 > "$GROUP/init/cgroup.procs"
        sed 's/[^ ][^ ]*/+&/g' "$GROUP/cgroup.controllers" > "$GROUP/cgroup.subtree_control"
        exec unshare --mount --net --uts --ipc --pid --fork --kill-child sh -e "$0" inside
        ;;
esac

read -r pid _ < /proc/self/stat # /proc is still the machine's: this is the number outside
first=
[ -d "$DISK" ] || first=yes
mkdir -p "$DISK/changes" "$DISK/work" "$DISK/root" "$DISK/docker" "$DISK/containerd"
cd "$DISK"
mount -t overlay -o lowerdir="$SYSTEM",upperdir=changes,workdir=work disk root
cd root

if [ "$first" ]; then # whatever the machine itself is set up to be, the host is new
    rm -rf etc/docker etc/openvswitch etc/ovn var/lib/openvswitch var/lib/ovn var/log/openvswitch var/log/ovn
    mkdir -p etc/openvswitch etc/ovn var/lib/openvswitch var/lib/ovn var/log/openvswitch var/log/ovn var/log/lab
    mkdir -p var/lib/docker var/lib/containerd
    echo "$NAME" > etc/hostname
    printf '127.0.0.1 localhost\n::1 localhost\n' > etc/hosts
    for address in $ADDRESSES; do echo "$address $NAME" >> etc/hosts; done
    rm -f etc/resolv.conf
    : > etc/resolv.conf
fi

mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount --bind /dev dev
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs tmp tmp
mkdir run/lab
mount --bind ../docker var/lib/docker # an overlay cannot be on an overlay
mount --bind ../containerd var/lib/containerd
echo "$SHARED" | while read -r path; do
    if [ -d "$path" ]; then
        mkdir -p ".$path"
    else
        mkdir -p ".${path%/*}"
        touch ".$path"
    fi
    mount --bind -o ro "$path" ".$path"
done

hostname "$NAME"
ip link set lo up
pivot_root . mnt
umount -l /mnt
echo "$pid"
exec tini -- sleep infinity
