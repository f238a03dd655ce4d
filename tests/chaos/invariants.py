"""Conditions that must hold when no command or fault is in progress."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from chaos import views
from chaos.mode import Mode
from chaos.views import Endpoint, View
from e2e.lab import Host

_ASK = r"""
ask() { busybox ping -c 1 -W 1 "$1" >/dev/null 2>&1; }
name() { timeout 5 busybox nslookup -type=a "$1" 127.0.0.11 2>/dev/null | grep -q "Address.* $2\$"; }
while read -r what target address; do
    { $what "$target" $address || $what "$target" $address || echo "$what $target $address"; } &
done
wait
"""
"""A script that runs in a container's network and prints the lines of its input without an answer.

Each gets two tries: in user space Open vSwitch drops packets for tunnels while links come and go."""


def troubles(mode: Mode, views_: list[View]) -> list[str]:
    """Return a line for each condition that does not hold; empty if all hold.

    OVN or Neutron, Open vSwitch and the kernel have exactly the state that Docker has; no address has two
    owners; containers reach each other; no driver has logged an internal error.
    """
    wanted = {*views.wanted(views_), *mode.wanted(views_)}
    found = views.found(views_) | mode.found(views_)
    lines = [f"left behind: {thing}" for thing in sorted(found - wanted)]
    lines += [f"missing: {thing}" for thing in sorted(wanted - found)]
    lines += _two_owners(views_)
    lines += [line for view in views_ for line in _crashes(view.host)]
    return lines or _unreachable(views_, names=mode.follow)


def _two_owners(views_: list[View]) -> list[str]:
    held = Counter(
        (one.switch, what) for view in views_ for one in view.endpoints for what in (one.mac, *one.addresses)
    )
    return [
        f"{count} owners: {what} on switch {switch}" for (switch, what), count in held.items() if count > 1
    ]


def _crashes(host: Host) -> list[str]:
    log = host.path(host.driver.log).read_text(errors="replace")
    return [f"{host.name}: the driver's log has a {word}" for word in ("Traceback", "|EMER|") if word in log]


def _unreachable(views_: list[View], *, names: bool) -> list[str]:
    """Return a line for each pair of endpoints of a network of which one gets no echo reply from the other.

    *names*: on a shared network also ask by name.
    """
    everybody = [one for view in views_ for one in view.endpoints]

    def ask(host: Host, pid: int) -> list[str]:
        endpoints = [one for one in everybody if one.host == host.name and one.pid == pid]
        questions = [question for one in endpoints for question in _questions(one, everybody, names=names)]
        enter = ("nsenter", f"--target={pid}", "--net", "sh", "-c", _ASK)
        silent = host.run(*enter, stdin="".join(f"{line}\n" for line in questions), timeout=60)
        return [
            f"no answer: {endpoints[0].container} on {host.name} to {line}" for line in silent.splitlines()
        ]

    asking = {(view.host, one.pid) for view in views_ for one in view.endpoints}
    with ThreadPoolExecutor(6) as pool:
        return [line for lines in pool.map(lambda who: ask(*who), sorted(asking, key=str)) for line in lines]


def _questions(one: Endpoint, everybody: list[Endpoint], *, names: bool) -> list[str]:
    others = [other for other in everybody if other.switch == one.switch and other.id != one.id]
    return [f"ask {address}" for other in others for address in other.addresses] + [
        f"name {other.container}.{other.network} {other.addresses[0]}"
        for other in others
        if names and one.shared
    ]
