#!/bin/sh
# First half of `make run`: installs what is missing and starts everything on this one machine.
# Harmless to repeat. demo/down.sh undoes it.
set -eu
cd "$(dirname "$0")/.."
. demo/functions.sh

[ "$(id -u)" = 0 ] || fail "the demo starts daemons and makes networks; run it as root: sudo make run"

if ! [ -e "$STATE" ]; then # else this is a repetition, and what is up was started by us
    mkdir -p "$(dirname "$STATE")"
    : >"$STATE"
    for part in openvswitch central controller driver docker; do
        is_up $part || note $part
    done
fi

say "1. What is needed: Open vSwitch, OVN, Docker, Python packages"
scripts/debian-packages run || fail "the Debian packages could not be installed; see above what apt says"
scripts/virtualenv .venv --editable . || fail "the Python packages could not be installed; see above what pip says"
! lacks_apparmor_parser ||
    fail "this kernel has AppArmor, and Docker starts no container without apparmor_parser: install package apparmor"
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
        [ -n "$remote" ] || note setup
        say "3. The central components, for this machine only"
        if listens && is_up central; then
            echo "The databases run and listen already; they stay as they are"
        elif listens; then # as somebody has decided
            show ovn-docker central start || fail "the central components did not start"
        else
            note listeners
            show ovn-docker central start --address 127.0.0.1 || fail "the central components did not start"
        fi

        say "4. One time setup of this host"
        # The address that other hosts would reach; alone, any will do.
        address=$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
        show ovn-docker host setup --central 127.0.0.1 --encap-ip "${address:-127.0.0.1}" --encap-type geneve ||
            fail "the host could not be set up"
        ;;
    *)
        say "3, 4. This host belongs to the central machine $remote already; that stays so"
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
docker network inspect docker_gwbridge >/dev/null 2>&1 || note gateway # the first container will make it
echo "Docker $(docker version --format '{{.Server.Version}}') answers"
