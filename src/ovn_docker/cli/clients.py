"""What configures a network interface (DHCP clients, systemd-networkd), moved to another one.

A client is stopped without giving its lease back, and started on the other interface as it was before.
The MAC is the same there, so the server gives the same address.
"""

import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovn_docker import printable
from ovn_docker.cli.steps import Steps, run, succeeds
from ovn_docker.errors import Conflict, Unavailable

NETWORKD = Path("/run/systemd/network")
"""Where systemd-networkd reads files that are to last until the next boot (systemd.network(5))."""

LEASE_TIMEOUT = "30"
"""Seconds that dhclient has; the others have such a limit of their own."""

PATIENCE_OPTIONS = {"-f", "--foreground", "-b", "--background", "-d", "-nw"}
"""Of udhcpc and dhclient: stay in the foreground, go to the background at once.

Started with neither, they return when they have a lease.
"""


@dataclass(frozen=True)
class Client:
    """What configures an interface.

    *program* is ``dhclient``, ``udhcpc``, ``dhcpcd`` or ``systemd-networkd``; *argv* starts it (for
    systemd-networkd: the files with its settings for the interface).
    """

    program: str
    argv: list[str]

    @property
    def wants_bare_link(self) -> bool:
        """Whether it does not take up addresses that are there when it starts.

        dhclient-script(8) only adds, and so would leave an address with the lifetime that it has; udhcpc
        removes all.
        """
        return self.program != "systemd-networkd"

    def __str__(self) -> str:
        return self.program


def running_on(link: str) -> list[Client]:
    """What runs on the interface.

    Raises:
        Conflict: NetworkManager does, which gives nothing away.

    """
    manager = ("env", "LC_ALL=C", "nmcli", "-g", "GENERAL.STATE", "device", "show", link)
    # Not "(connected (externally))": that is how it calls what others configure.
    if succeeds(*manager) and "(connected)" in run(manager):
        raise Conflict(
            f"NetworkManager configures {link} and would take the addresses back; take {link} from it with "
            f"`nmcli device set {link} managed no`, give it an address (ip or dhclient), then run this again"
        )
    return [*_processes(link), *_dhcpcd(link), *_networkd(link)]


def _processes(link: str) -> Iterator[Client]:
    """Clients that have the interface in their arguments, in this network namespace."""
    for process in _in_this_namespace():
        argv = _arguments(process)
        names = [Path(word).name for word in argv[:2]]
        program = names[-1] if names[:1] == ["busybox"] else names[0] if names else ""
        if program in {"dhclient", "udhcpc"} and link in argv:
            yield Client(program, argv)


def _in_this_namespace() -> list[Path]:
    """Processes that share our network (namespaces(7))."""
    ours = Path("/proc/self/ns/net").readlink()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/net").readlink() == ours:
                found.append(process)
        except OSError:
            continue
    return found


def _arguments(process: Path) -> list[str]:
    """Of a process; none of one that is gone, even if its parent has not noticed."""
    try:
        text = (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return []
    return text.split("\0") if text else []


def _dhcpcd(link: str) -> Iterator[Client]:
    """dhcpcd(8), which rewrites its arguments: its pidfile names the interface, maybe the family too."""
    for family, name in (([], link), (["-4"], f"{link}-4"), (["-6"], f"{link}-6")):
        try:
            pid = int(Path(f"/run/dhcpcd/{name}.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if any(word.startswith("dhcpcd") for word in _arguments(Path(f"/proc/{pid}"))):
            yield Client("dhcpcd", ["dhcpcd", *family, link])


def _networkd(link: str) -> Iterator[Client]:
    """systemd-networkd, if it configures the interface."""
    programs = {Path(argv[0]).name for process in _in_this_namespace() if (argv := _arguments(process))}
    state = _networkd_state(link) if "systemd-networkd" in programs else {}
    if "NETWORK_FILE" in state and state.get("ADMIN_STATE") not in {"unmanaged", "failed"}:
        drop_ins = shlex.split(state.get("NETWORK_FILE_DROPINS", "").replace(":", " "))
        yield Client("systemd-networkd", [state["NETWORK_FILE"], *drop_ins])


def _networkd_state(link: str) -> dict[str, str]:
    """What systemd-networkd notes of an interface, such as the .network files that are used for it."""
    try:
        state = Path(f"/run/systemd/netif/links/{socket.if_nametoindex(link)}").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in state.splitlines() if "=" in line)


def settings(client: Client) -> list[str]:
    """Of systemd-networkd what its files for the interface say. Raises Unavailable if one has gone."""
    if client.program != "systemd-networkd":
        return []
    try:
        return [Path(file).read_text(encoding="utf-8") for file in client.argv]
    except OSError as error:
        raise Unavailable(
            f"cannot read {error.filename}: {error.strerror}; systemd-networkd goes by it: put it back, "
            "or have it read what is there with `networkctl reload`, then run this again"
        ) from None


def stop(steps: Steps, client: Client, link: str) -> None:
    """Stop a client; the addresses stay where they are."""
    if client.program == "dhcpcd":
        steps.change(f"stop dhcpcd on {link}", "dhcpcd", "--persistent", "--exit", *client.argv[1:])
    elif client.program != "systemd-networkd":
        for process in _in_this_namespace():
            if _arguments(process) == client.argv:
                _kill(steps, client, link, process)


def _kill(steps: Steps, client: Client, link: str, process: Path) -> None:
    steps.change(f"stop {client} on {link}", "kill", process.name)
    steps.wait(
        f"end of {client}",
        lambda: not _arguments(process),
        seconds=5,
        hint=f"try `kill -9 {process.name}`",
    )


def start(steps: Steps, client: Client, old: str, new: str, *, back: bool = False) -> None:
    """Start on *new* a client that ran on *old*, or with *back* return it to *new*, where it ran at first.

    Of the DHCP clients it returns when there is a lease.
    """
    if client.program == "systemd-networkd":
        _hand_over(steps, client, old, new, back=back)
        return
    argv = [_renamed(word, old, new) for word in client.argv if word not in PATIENCE_OPTIONS]
    if client.program == "dhclient":
        _copy_leases(steps, client.argv, argv, old, new)
    if client.program == "udhcpc" and "-n" not in argv:
        argv.append("-n")  # end with an error if there is no lease
    if client.program == "dhclient":
        argv = ["timeout", LEASE_TIMEOUT, *argv]  # it would try for minutes (dhclient.conf(5), timeout)
    steps.change(f"start {client} on {new}", *argv)


def _renamed(word: str, old: str, new: str) -> str:
    """An argument, which may be a path, for another interface."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9])", new, word)


def _copy_leases(steps: Steps, argv: list[str], renamed: list[str], old: str, new: str) -> None:
    """dhclient(8) keeps in its leases who it is (DUID): with a new one it would get another address."""
    if "-lf" not in argv:
        return
    source, target = (Path(words[words.index("-lf") + 1]) for words in (argv, renamed))
    if source == target or not source.exists():
        return
    steps.note(
        f"let dhclient have on {new} the lease of {old}", f'sed \'s/"{old}"/"{new}"/\' {source} > {target}'
    )
    if not steps.dry_run:
        leases = source.read_text(encoding="utf-8", errors="surrogateescape")
        target.write_text(leases.replace(f'"{old}"', f'"{new}"'), encoding="utf-8", errors="surrogateescape")


def _network_file(link: str) -> Path:
    return NETWORKD / f"00-ovn-docker-{link}.network"


def _hand_over(steps: Steps, client: Client, old: str, new: str, *, back: bool) -> None:
    """Have systemd-networkd configure *new* as it did *old*, until the next boot; and leave *old* alone."""
    if back:  # without our files that applies which applied before
        for link in (old, new):
            steps.change(f"remove the settings for {link}", "rm", "--force", str(_network_file(link)))
    else:
        _write(steps, _network_file(old), f"[Match]\nName={old}\n[Network]\nDHCP=no\nLinkLocalAddressing=no\n"
               "IPv6AcceptRA=no\n[Link]\nRequiredForOnline=no\n")  # fmt: skip
        rest = "\n".join(map(_without_match, settings(client)))
        _write(steps, _network_file(new), f"[Match]\nName={new}\n{rest}\n[Network]\nKeepConfiguration=yes\n")
    steps.change("let systemd-networkd read its files again", "networkctl", "reload")
    steps.wait(f"configuration of {new} by systemd-networkd", lambda: _configured(new, by_ours=not back),
               seconds=20, hint=f"see `networkctl status {new}`")  # fmt: skip


def _write(steps: Steps, path: Path, text: str) -> None:
    steps.note(f"write {path}", f"{printable.command('printf', '%s', text)} > {path}")
    if not steps.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _without_match(text: str) -> str:
    """A .network file without its [Match] section."""
    sections = re.split(r"(?m)^(?=\[)", text)
    return "".join(section for section in sections if not section.startswith("[Match]")).strip()


def _configured(link: str, *, by_ours: bool) -> bool:
    state = _networkd_state(link)
    ours = state.get("NETWORK_FILE") == str(_network_file(link))
    return state.get("ADMIN_STATE") == "configured" and ours == by_ours
