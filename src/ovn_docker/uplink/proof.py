"""Proof that a move was good: the hosts that answered through the interface answer through the bridge."""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host.kernel.ping import Echo, answered
from ovn_docker.host.run import StepFailed, run
from ovn_docker.text.output import say, say_lines
from ovn_docker.uplink.bridge_request import BridgeRequest
from ovn_docker.uplink.journal import confirmation_path
from ovn_docker.uplink.uplink import Uplink

_BASELINE = 2.0
"""Seconds that a host has to answer before anything is changed."""

_ECHO_TIME = 1.0
"""Seconds that a host has to answer an echo request."""

_ECHO_SIZE = 56
"""Bytes of an echo request, which fit any link."""


def hosts_before(request: BridgeRequest, uplink: Uplink, *, attached: bool) -> set[str]:
    """Return the hosts that have to answer through the bridge.

    These are the hosts that the request names; without names, the gateways and the SSH client, or else the
    neighbours, as far as they answer now. An interface that is *attached* to the bridge may have lost its
    network already: then no answer is expected now.

    Raises:
        Unavailable: a host that the request names does not answer now.

    """
    name = request.interface
    if request.reach:
        asked = set(request.reach)
        silent = set() if attached else asked - answering(asked, name, _BASELINE)
        if silent:
            raise Unavailable(
                f"--reach {', '.join(sorted(silent))} does not answer on {name} as it is; nothing was changed"
            )
        return asked
    usual = set(_gateways(uplink))
    session = _remote_of_session()
    if session and "%" not in session and _leaves_by(session, name):
        usual.add(session)
    usual = usual or set(_neighbours(name))
    return usual if attached else answering(usual, name, _BASELINE)


def require(request: BridgeRequest, hosts: set[str]) -> None:
    """Return when all *hosts* answer through the bridge, or the operator confirms the move.

    Raises:
        Unavailable: neither happened in time.

    """
    if request.unproven:
        return
    interface, bridge, timeout = request.interface, request.bridge, request.timeout
    if not hosts:
        with suppress(OSError):
            say_lines(
                f"no host answered on {interface} before the move, so there is no proof that {bridge} works. "
                f"To keep the move, type this in a new session within {timeout:g} seconds:\n"
                f"    $ ovn-docker underlay bridge --interface {interface} --bridge {bridge} --confirm",
                flush=True,
            )
    found: set[str] = set()
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if confirmation_path(interface).exists():
            return
        if hosts:
            with suppress(OvnDockerError):
                found = answering(hosts, bridge, 1)
                if found == hosts:
                    with suppress(OSError):
                        say(f"{', '.join(sorted(hosts))} answered through {bridge}", flush=True)
                    return
        time.sleep(0.1)
    missing = f"no answer from {', '.join(sorted(hosts - found))} through {bridge} and " if hosts else ""
    raise Unavailable(
        f"{missing}no confirmation of the move within {timeout:g} seconds; {interface} has its network again"
    )


def _gateways(uplink: Uplink) -> list[str]:
    """Return the gateways of the default routes; without these, the gateways of all routes."""
    default = [words for words in uplink.routes if "default" in words]
    found = [
        words[at + 2 if words[at + 1] in {"inet", "inet6"} else at + 1]
        for words in default or uplink.routes
        for at, word in enumerate(words)
        if word == "via"
    ]
    return list(dict.fromkeys(found))


def _neighbours(link: str) -> list[str]:
    """Return the hosts of the segment whose MAC the kernel knows."""
    known = json.loads(run(("ip", "-json", "neighbour", "show", "dev", link)))
    return [one["dst"] for one in known if "lladdr" in one and "NOARP" not in one.get("state", [])]


def _remote_of_session() -> str | None:
    """Return the address of the SSH client in whose session this program runs, if any.

    sshd(8) sets a variable for its children. sudo(8) clears the environment, so those of the parents are read
    too.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return None
        for variable in environment:
            if variable.startswith(b"SSH_CONNECTION="):
                return variable.partition(b"=")[2].split()[0].decode()
    return None


def _leaves_by(address: str, link: str) -> bool:
    """True if packets for *address* leave by the interface."""
    try:
        return f" dev {link} " in f"{run(('ip', 'route', 'get', address))} "
    except StepFailed:
        return False


def answering(targets: Iterable[str], link: str, seconds: float) -> set[str]:
    """Return the addresses that answer on the interface within *seconds*; all are asked at once.

    A neighbour answers ARP or neighbour discovery, which no firewall drops; any host answers an echo request.
    """
    waiting = set(targets)
    found: set[str] = set()
    end = time.monotonic() + seconds
    for target in waiting:
        _ask_neighbour(target, link)
    while waiting - found and (left := end - time.monotonic()) > 0:
        echoes = [Echo(target, _ECHO_SIZE, link=link) for target in waiting - found]
        found |= {echo.target for echo in answered(echoes, min(left, _ECHO_TIME))}
        found |= waiting & _reachable(link)
    return found


def _ask_neighbour(target: str, link: str) -> None:
    """Have the kernel probe a neighbour that it knows; the echo request makes it look up any other."""
    for one in json.loads(run(("ip", "-json", "neighbour", "show", "to", target, "dev", link))):
        if "lladdr" in one and "PERMANENT" not in one.get("state", []):
            words = ("lladdr", one["lladdr"], "dev", link, "nud", "probe")
            run(("ip", "neighbour", "replace", target, *words))


def _reachable(link: str) -> set[str]:
    """Return the neighbours that have answered lately."""
    known = json.loads(run(("ip", "-json", "neighbour", "show", "dev", link, "nud", "reachable")))
    return {one["dst"] for one in known}
