#!/bin/sh
# Second half of `make run`: the session of OVN's Docker guide, "overlay" mode.
# It can be repeated: containers of an earlier session are replaced, its networks used again.
set -eu
cd "$(dirname "$0")/.."
. demo/functions.sh

# create_network NAME SUBNET: create a network unless it exists, and print its ID.
create_network() {
    if docker network inspect "$1" >/dev/null 2>&1; then
        found=$(docker network inspect --format '{{.Driver}} {{(index .IPAM.Config 0).Subnet}}' "$1")
        [ "$found" = "openvswitch $2" ] ||
            fail "a network $1 exists that the demo has not made ($found); remove it: docker network rm $1"
        echo "network $1 is there already" >&2
        docker network inspect --format '{{.ID}}' "$1"
    else
        echo "\$ docker network create -d openvswitch --subnet=$2 $1" >&2
        docker network create -d openvswitch --subnet="$2" --label "$LABEL" "$1"
    fi
}

# run_container NAME
run_container() {
    echo "\$ docker run -itd --net=foo --name=$1 busybox"
    docker run -itd --net=foo --name="$1" --label "$LABEL" busybox
}

say "An image: busybox, made from Debian's static binary"
if docker image inspect busybox >/dev/null 2>&1; then
    echo "image busybox is there already"
else
    tree=$(mktemp -d)
    chmod 755 "$tree"
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree/bin" "$tree/tmp" "$tree/etc"
    cp /bin/busybox "$tree/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ -e "$tree/bin/$applet" ] || ln -s busybox "$tree/bin/$applet"
    done
    echo "\$ tar -c . | docker import --change 'CMD [\"sh\"]' - busybox"
    tar -C "$tree" -c . | docker import --change 'CMD ["sh"]' --change "LABEL $LABEL=" - busybox
fi

say "Create a logical switch"
NID=$(create_network foo 192.168.1.0/24) ||
    fail "the network could not be created; see \`.venv/bin/ovn-docker doctor\`"
echo "NID=$NID"

say "Create a logical port: run two containers"
for old in $(docker ps --all --quiet --filter "label=$LABEL"); do
    docker rm --force "$old" >/dev/null # of an earlier session
done
run_container busybox || fail "see the message of Docker above, and /var/log/openvswitch/ovn-docker-overlay-driver.log"
run_container busybox2 || fail "see the message of Docker above, and /var/log/openvswitch/ovn-docker-overlay-driver.log"

say "Ping one from the other"
peer=$(docker inspect --format '{{.NetworkSettings.Networks.foo.IPAddress}}' busybox2)
show docker exec busybox ping -c 3 "$peer" || fail "no answer from $peer; see \`.venv/bin/ovn-docker doctor\`"

say "List all logical switches"
show docker network ls
OVN_NB_DB=$(ovs-vsctl --if-exists get Open_vSwitch . external_ids:ovn-nb | tr -d '"')
export OVN_NB_DB
show ovn-nbctl ls-list

say "List all logical ports of foo"
show ovn-nbctl lsp-list "$NID"

say "Attach a running container to a second network, and detach it"
BAR=$(create_network bar 192.168.2.0/24)
show docker network connect bar busybox
show docker exec busybox ip -4 address show scope global
show ovn-nbctl lsp-list "$BAR"
show docker network disconnect bar busybox

say "Delete a logical switch"
show docker network rm bar

cat <<END

Ready. Containers busybox and busybox2 are on network foo; make your own:
    docker network create -d openvswitch --subnet=192.168.3.0/24 mine
    docker run -it --rm --net=mine busybox
Show the host:   .venv/bin/ovn-docker status
Find faults:     .venv/bin/ovn-docker doctor
Undo:            make stop
END
