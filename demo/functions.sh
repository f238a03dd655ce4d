# Functions that the demo's scripts share; to be sourced.
# shellcheck shell=sh disable=SC2034

# Distribution's tools first: a Docker client from elsewhere may be too new for the engine.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PWD/.venv/bin:$PATH
export PATH
unset DOCKER_HOST DOCKER_CONTEXT

# A line for each part that was down before `make run`, and for what else it then changed: "setup" the one
# time setup of the host, "listeners" the databases' connections, "gateway" Docker's bridge docker_gwbridge.
STATE=/run/ovn-docker/demo
LABEL=ovn-docker.demo            # marks the image, containers and networks of the demo
DOCKERD_LOG=/var/log/ovn-docker-demo-dockerd.log

say() {
    printf '\n== %s\n' "$*"
}

# Prints a command as a user would type it, and runs it.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

fail() {
    printf '\nfailed: %s\n' "$*" >&2
    exit 1
}

# Whether Docker lacks what it needs on a kernel with AppArmor: its packages only recommend the parser.
lacks_apparmor_parser() {
    [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && ! command -v apparmor_parser >/dev/null
}

systemd() {
    [ -d /run/systemd/system ]
}

# Notes a part that `make run` starts or a thing that it makes, once.
note() {
    was_down "$1" || echo "$1" >>"$STATE"
}

# Whether `make run` found a part down, or made a thing.
was_down() {
    grep -qx "$1" "$STATE" 2>/dev/null
}

# The parts that answer now; each question is short and harmless.
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

# Whether OVN's northbound database listens on a port, or will when it is up: as /etc/default/ovn-central says, or
# as rows of its own say.
listens() {
    ! grep -qs '^OVN_CTL_OPTS=.*--remote=p' /etc/default/ovn-central || return 0
    if is_up central; then
        ovn-nbctl --timeout=2 --db=unix:/var/run/ovn/ovnnb_db.sock get-connection
    else
        ovsdb-tool query /var/lib/ovn/ovnnb_db.db \
            '["OVN_Northbound",{"op":"select","table":"Connection","where":[],"columns":["target"]}]'
    fi 2>/dev/null | grep -qE '(tcp|ssl):'
}
