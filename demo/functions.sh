# Functions of the demo's scripts, which source this file.
# shellcheck shell=sh disable=SC2034

# The distribution's tools come first: another Docker client may be too new for the engine.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PWD/.venv/bin:$PATH
export PATH
unset DOCKER_HOST DOCKER_CONTEXT

# A line for each part that was down before `make run`, and for each other change of it: "setup" for the one-time
# setup of the host, "listeners" for the databases' listeners, "gateway" for Docker's bridge docker_gwbridge.
STATE=/run/ovn-docker/demo
LABEL=ovn-docker.demo            # marks the image, containers and networks of the demo
DOCKERD_LOG=/var/log/ovn-docker-demo-dockerd.log

say() {
    printf '\n== %s\n' "$*"
}

# Print a command as a user would type it, and run it.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

fail() {
    printf '\nfailed: %s\n' "$*" >&2
    exit 1
}

# True if the kernel has AppArmor and its parser, which Docker needs and docker.io only recommends, is missing.
lacks_apparmor_parser() {
    [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && ! command -v apparmor_parser >/dev/null
}

systemd() {
    [ -d /run/systemd/system ]
}

# Record, once, a part that `make run` starts or makes.
mark() {
    was_down "$1" || echo "$1" >>"$STATE"
}

# True if `make run` has started or made a part.
was_down() {
    grep -qx "$1" "$STATE" 2>/dev/null
}

# True if a part answers; the questions change nothing.
is_up() {
    case $1 in
        openvswitch) ovs-vsctl --timeout=2 --no-wait show ;;
        central) ovn-nbctl --timeout=2 --db=unix:/var/run/ovn/ovnnb_db.sock get-connection ;;
        controller) ovn-appctl -T 2 -t ovn-controller version ;;
        driver) driver_answers ;;
        docker) docker version ;;
    esac >/dev/null 2>&1
}

# controller start|stop
controller() {
    if systemd; then
        show systemctl "$1" ovn-host ovn-controller
    else
        show /usr/share/ovn/scripts/ovn-ctl "$1_controller"
    fi
}

driver_answers() {
    for control in /run/openvswitch/ovn-docker-overlay-driver.*.ctl; do
        ovs-appctl -T 2 -t "$control" version && return
    done
    return 1
}

# True if OVN's northbound database has a listener, running or not: in /etc/default/ovn-central or in its rows.
listens() {
    ! grep -qs '^OVN_CTL_OPTS=.*--remote=p' /etc/default/ovn-central || return 0
    if is_up central; then
        ovn-nbctl --timeout=2 --db=unix:/var/run/ovn/ovnnb_db.sock get-connection
    else
        ovsdb-tool query /var/lib/ovn/ovnnb_db.db \
            '["OVN_Northbound",{"op":"select","table":"Connection","where":[],"columns":["target"]}]'
    fi 2>/dev/null | grep -qE '(tcp|ssl):'
}
