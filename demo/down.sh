#!/bin/sh
# `make stop`: remove the containers and networks of the demo and stop the daemons that `make run` started.
# It can be repeated.
set -eu
cd "$(dirname "$0")/.."
. demo/functions.sh

[ "$(id -u)" = 0 ] || fail "run it as root: sudo make stop"

if is_up docker; then
    say "Containers and networks of the demo"
    for container in $(docker ps --all --quiet --filter "label=$LABEL"); do
        show docker rm --force "$container"
    done
    for network in $(docker network ls --quiet --filter "label=$LABEL"); do
        users=$(docker network inspect --format '{{range .Containers}} {{.Name}}{{end}}' "$network")
        [ -z "$users" ] || fail "your own containers use the demo's network; remove them, then type make stop again:$users"
        show docker network rm "$network"
    done
    for image in $(docker image ls --quiet --filter "label=$LABEL"); do
        show docker image rm "$image" || echo "your own containers use image $image; it stays"
    done
    if was_down gateway && docker network inspect docker_gwbridge >/dev/null 2>&1; then
        show docker network rm docker_gwbridge || echo "your own containers use docker_gwbridge; it stays"
    fi
    own=$(docker network ls --filter driver=openvswitch --format '{{.Name}}' | tr '\n' ' ')
    [ -z "$own" ] || echo "Your own networks stay, and work again when the driver runs: $own"
fi

say "Daemons that make run started"
if was_down docker && is_up docker; then
    if systemd; then
        show systemctl stop docker.socket docker.service
    else
        pid=$(cat /var/run/docker.pid)
        show kill "$pid"
        while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    fi
fi
if [ -x .venv/bin/ovn-docker ]; then
    if was_down driver || was_down controller; then
        show ovn-docker host stop
    fi
    if was_down setup && is_up openvswitch; then
        ! is_up controller || controller stop # else it makes the bridge again
        show ovs-vsctl --if-exists del-br br-int
        for key in ovn-remote ovn-nb ovn-encap-ip ovn-encap-type ovn-bridge-datapath-type; do
            show ovs-vsctl remove Open_vSwitch . external_ids $key
        done
    fi
    if [ -e "$STATE" ] && ! was_down controller && ! is_up controller; then
        controller start
    fi
    ! was_down openvswitch || show ovn-docker host stop --all
    if was_down listeners; then
        show ovn-docker central stop --reset
        if ! was_down central; then # before make run the databases ran without a listener
            if systemd; then
                show systemctl start ovn-central
            else
                show /usr/share/ovn/scripts/ovn-ctl start_northd
            fi
        fi
    elif was_down central; then
        show ovn-docker central stop
    fi
fi
rm -f "$STATE"
echo "stopped"
