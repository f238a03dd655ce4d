"""Make the command that captures a container's packets: here, or over ssh(1) on the container's host."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ovn_docker.errors import BadRequest, Conflict, Unavailable
from ovn_docker.inspect.views import EndpointView
from ovn_docker.text import printable


@dataclass(frozen=True, slots=True)
class Capture:
    """The arguments of a capture; *network*: empty for a container on one network alone.

    *arguments*: options and filter of tcpdump(8).
    """

    container: str
    network: str = ""
    count: int | None = None
    write: str | None = None
    arguments: tuple[str, ...] = ()


def is_here(found: Sequence[EndpointView]) -> bool:
    """True if a container with these endpoints is on this host."""
    return any(endpoint.here for endpoint in found)


def find_link(capture: Capture, found: Sequence[EndpointView]) -> str:
    """Return this host's end of the link of a container on this host. Raises BadRequest, Conflict."""
    name, network = capture.container, capture.network
    here = [endpoint for endpoint in found if endpoint.link and network in ("", endpoint.network)]
    if network and network not in (networks := [endpoint.network for endpoint in found]):
        raise BadRequest(f"{name} is not on network {network}, but on {', '.join(networks)}")
    if not here:
        where = f"on network {network}" if network else "on this host"
        raise Conflict(
            f"{name} has no link {where}: {'; '.join(found[0].differences) or 'see ovn-docker inspect'}"
        )
    if len(here) > 1:
        on = ", ".join(endpoint.network for endpoint in here)
        raise BadRequest(f"{name} is on several networks, {on}: say --network NETWORK")
    return here[0].link


def at_link(capture: Capture, link: str) -> list[str]:
    """Return the command that captures at a link of this host."""
    argv = ["tcpdump", "-n", "-i", link]
    argv += ["-c", str(capture.count)] if capture.count else []
    argv += ["-w", capture.write] if capture.write else ["-l", "-e"]
    return [*argv, *capture.arguments]


def over_ssh(capture: Capture, end: EndpointView) -> list[str]:
    """Return the ssh(1) command that captures on the host of *end*.

    The host has written its name into the database itself: a name that ssh could take for an option or a user
    is refused. The rest was typed here. Raises Unavailable, BadRequest.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?", end.host):
        raise Unavailable(
            f"{capture.container} is on {end.host[:64]!r}, which is not the name of a host: run "
            "ovn-docker tcpdump there"
        )
    options = ["--network", capture.network] if capture.network else []
    options += ["-c", str(capture.count)] if capture.count else []
    options += ["-w", capture.write] if capture.write else []
    container = capture.container.rpartition("/")[2]
    words = ["ovn-docker", "tcpdump", *options, container, *capture.arguments]
    if not all(map(printable.is_plain, words)):
        raise BadRequest(
            "an argument of tcpdump has characters that are not printable: run the command on that host"
        )
    return ["ssh", "--", end.host, printable.command(*words)]
