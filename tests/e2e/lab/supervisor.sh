#!/bin/sh -e
# Owns a lab's mounts and control groups, and outlives its processes, which begin with the script $1, to
# remove the groups; the mounts go by themselves.  DISKS: an empty directory.
mount -t tmpfs disks "$DISKS"
# Where systemd has mounted cgroup2 there already, a second mount fails ("already mounted").
[ "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 cgroup /sys/fs/cgroup
export GROUP=/sys/fs/cgroup/ovn-docker-lab-$$
mkdir "$GROUP"
sed 's/[^ ][^ ]*/+&/g' "$GROUP/cgroup.controllers" > "$GROUP/cgroup.subtree_control" # the hosts get what we have
unshare --net --pid --fork --kill-child sh -e "$1" || status=$?
find "$GROUP" -depth -type d -delete
exit "${status:-0}"
