#!/bin/sh
# First half of `make run`: install missing packages and start everything on this machine.
# It can be repeated; demo/down.sh undoes it.
set -eu
cd "$(dirname "$0")/.."
. demo/functions.sh

[ "$(id -u)" = 0 ] || fail "the demo starts daemons and makes networks; run it as root: sudo make run"

if ! [ -e "$STATE" ]; then # else an earlier run has started the parts that are up
    mkdir -p "$(dirname "$STATE")"
    : >"$STATE"
    for part in openvswitch central controller driver docker; do
        is_up $part || mark $part
    done
fi

say "1. Packages: Open vSwitch, OVN, Docker, Python packages"
scripts/debian-packages run || fail "the Debian packages could not be installed; see the messages of apt above"
scripts/virtualenv .venv --editable . || fail "the Python packages could not be installed; see the messages of pip above"
! lacks_apparmor_parser ||
    fail "this kernel has AppArmor, and Docker needs apparmor_parser to start containers: install package apparmor"
echo "all there: $(ovs-vsctl --version | head -n 1), $(ovn-nbctl --version | head -n 1), $(docker --version)"

say "2. Open vSwitch"
if ! is_up openvswitch; then
    if systemd; then
        show systemctl start openvswitch-switch || fail "see \`journalctl -u ovs-vswitchd\`"
    else
        show /usr/share/openvswitch/scripts/ovs-ctl start --system-id=random || fail "see /var/log/openvswitch"
    fi
fi
remote=$(ovs-vsctl --if-exists get Open_vSwitch . external_ids:ovn-remote | tr -d '"')
echo "Open vSwitch runs"

case $remote in
    '' | tcp:127.0.0.1:6642)
        [ -n "$remote" ] || mark setup
        say "3. The central components, for this machine only"
        if listens && is_up central; then
            echo "The databases run and listen already; they stay as they are"
        elif listens; then # where an administrator has configured it
            show ovn-docker central start || fail "the central components did not start"
        else
            mark listeners
            show ovn-docker central start --address 127.0.0.1 || fail "the central components did not start"
        fi

        say "4. One time setup of this host"
        # The address that other hosts would reach; a single machine can use any.
        address=$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
        show ovn-docker host setup --central 127.0.0.1 --encap-ip "${address:-127.0.0.1}" --encap-type geneve ||
            fail "the host could not be set up"
        ;;
    *)
        say "3, 4. This host belongs to the central machine $remote already; its settings stay"
        ;;
esac

say "5. ovn-controller and the driver"
show ovn-docker host start || fail "a part of the host did not start"

say "6. Docker"
if ! is_up docker; then
    if systemd; then
        show systemctl start docker || fail "see \`journalctl -u docker\`"
    else
        echo "\$ dockerd >$DOCKERD_LOG 2>&1 &"
        setsid dockerd >"$DOCKERD_LOG" 2>&1 </dev/null &
    fi
    tries=60
    until is_up docker; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "Docker does not answer after 30 seconds; see $DOCKERD_LOG: $(tail -n 1 "$DOCKERD_LOG")"
        sleep 0.5
    done
fi
docker network inspect docker_gwbridge >/dev/null 2>&1 || mark gateway # the first container makes it
echo "Docker $(docker version --format '{{.Server.Version}}') answers"
