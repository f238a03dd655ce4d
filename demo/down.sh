#!/bin/sh
# `make stop`: removes the containers and networks of the demo and stops what `make run` started.
# Harmless to repeat.
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
        [ -z "$users" ] || fail "containers of yours use the demo's network; remove them, then this again:$users"
        show docker network rm "$network"
    done
    for image in $(docker image ls --quiet --filter "label=$LABEL"); do
        show docker image rm "$image" || echo "containers of yours use image $image; it stays"
    done
    mine=$(docker network ls --filter driver=openvswitch --format '{{.Name}}' | tr '\n' ' ')
    [ -z "$mine" ] || echo "Networks of yours stay and work again once the driver runs: $mine"
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
    ! was_down host || show ovn-docker host stop
    if was_down setup && is_up openvswitch; then
        show ovs-vsctl --if-exists del-br br-int
        for key in ovn-remote ovn-nb ovn-encap-ip ovn-encap-type ovn-bridge-datapath-type; do
            show ovs-vsctl remove Open_vSwitch . external_ids $key
        done
    fi
    ! was_down openvswitch || show ovn-docker host stop --all
    if was_down central && was_down setup; then
        show ovn-docker central stop --reset
    elif was_down central; then
        show ovn-docker central stop
    fi
fi
rm -f "$STATE"
echo "stopped"
