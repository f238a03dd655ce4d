# Functions that the demo's scripts share; to be sourced.
# shellcheck shell=sh disable=SC2034

# Distribution's tools first: a Docker client from elsewhere may be too new for the engine.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PWD/.venv/bin:$PATH
export PATH
unset DOCKER_HOST DOCKER_CONTEXT

STATE=/run/ovn-docker/demo       # a line for each part that was down before `make run`; "setup": so was the one time setup
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

systemd() {
    [ -d /run/systemd/system ]
}

# Whether `make run` found a part down.
was_down() {
    grep -qx "$1" "$STATE" 2>/dev/null
}

# The parts that answer now; each question is short and harmless.
is_up() {
    case $1 in
        openvswitch) ovs-vsctl --timeout=2 --no-wait show ;;
        central) ovn-nbctl --timeout=2 --db=unix:/var/run/ovn/ovnnb_db.sock get-connection ;;
        host) ovn-appctl -T 2 -t ovn-controller version ;;
        docker) docker version ;;
    esac >/dev/null 2>&1
}
