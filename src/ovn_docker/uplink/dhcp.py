"""Clients: the programs that configure a network interface (DHCP clients, systemd-networkd), and their move.

A client is stopped without giving its lease back, and started on the other interface with the same arguments.
That interface has the same MAC, so the server leases the same address.
"""

import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import Conflict, Unavailable
from ovn_docker.host.run import run, succeeds
from ovn_docker.setup.steps import Steps
from ovn_docker.text import printable

NETWORKD = Path("/run/systemd/network")
"""Directory of systemd-networkd's files that last until the next boot (systemd.network(5))."""

LEASE_TIMEOUT = "30"
"""Seconds that dhclient may take to get a lease; the other clients have a limit of their own."""

WAITING_OPTIONS = {"-f", "--foreground", "-b", "--background", "-d", "-nw"}
"""Options of udhcpc and dhclient to stay in the foreground, or to enter the background at once.

Without any of them the clients return when they have a lease.
"""


@dataclass(frozen=True)
class DhcpClient:
    """A program that configures an interface.

    *program* is ``dhclient``, ``udhcpc``, ``dhcpcd`` or ``systemd-networkd``; *argv* starts it (for
    systemd-networkd: the files with its settings for the interface).
    """

    program: str
    argv: list[str]

    @property
    def wants_bare_link(self) -> bool:
        """True if the client does not adopt addresses that the interface has when it starts.

        dhclient-script(8) only adds addresses, and so would leave an old one with its lifetime; udhcpc
        removes all addresses.
        """
        return self.program != "systemd-networkd"

    def __str__(self) -> str:
        return self.program


def running_on(link: str) -> list[DhcpClient]:
    """Return the clients of the interface.

    Raises:
        Conflict: NetworkManager configures the interface; its settings cannot be moved.

    """
    manager = ("env", "LC_ALL=C", "nmcli", "-g", "GENERAL.STATE", "device", "show", link)
    # Not "(connected (externally))": so NetworkManager marks links that other programs configure.
    if succeeds(*manager) and "(connected)" in run(manager):
        raise Conflict(
            f"NetworkManager configures {link} and would move the addresses back; run "
            f"`nmcli device set {link} managed no`, set an address (ip or dhclient), then run this again"
        )
    return [*_processes(link), *_dhcpcd(link), *_networkd(link)]


def _processes(link: str) -> Iterator[DhcpClient]:
    """Yield the clients that have the interface in their arguments, in this network namespace."""
    for process in _in_this_namespace():
        argv = _arguments(process)
        names = [Path(word).name for word in argv[:2]]
        program = names[-1] if names[:1] == ["busybox"] else names[0] if names else ""
        if program in {"dhclient", "udhcpc"} and link in argv:
            yield DhcpClient(program, argv)


def _in_this_namespace() -> list[Path]:
    """Return the processes of this network namespace (namespaces(7))."""
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
    """Return the arguments of a process; an empty list if it has ended, even if it is still a zombie."""
    try:
        text = (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return []
    return text.split("\0") if text else []


def _dhcpcd(link: str) -> Iterator[DhcpClient]:
    """Yield the dhcpcd(8) of the interface: it rewrites its arguments, but a pidfile names the interface."""
    for family, name in (([], link), (["-4"], f"{link}-4"), (["-6"], f"{link}-6")):
        try:
            pid = int(Path(f"/run/dhcpcd/{name}.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if any(word.startswith("dhcpcd") for word in _arguments(Path(f"/proc/{pid}"))):
            yield DhcpClient("dhcpcd", ["dhcpcd", *family, link])


def _networkd(link: str) -> Iterator[DhcpClient]:
    """Yield systemd-networkd, if it configures the interface."""
    programs = {Path(argv[0]).name for process in _in_this_namespace() if (argv := _arguments(process))}
    state = _networkd_state(link) if "systemd-networkd" in programs else {}
    if "NETWORK_FILE" in state and state.get("ADMIN_STATE") not in {"unmanaged", "failed"}:
        drop_ins = shlex.split(state.get("NETWORK_FILE_DROPINS", "").replace(":", " "))
        yield DhcpClient("systemd-networkd", [state["NETWORK_FILE"], *drop_ins])


def _networkd_state(link: str) -> dict[str, str]:
    """Return systemd-networkd's state of an interface, such as the .network files that apply to it."""
    try:
        state = Path(f"/run/systemd/netif/links/{socket.if_nametoindex(link)}").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in state.splitlines() if "=" in line)


def settings(client: DhcpClient) -> list[str]:
    """Return the texts of systemd-networkd's files for the interface; of other clients, an empty list.

    Raises:
        Unavailable: a file cannot be read.

    """
    if client.program != "systemd-networkd":
        return []
    try:
        return [Path(file).read_text(encoding="utf-8") for file in client.argv]
    except OSError as error:
        raise Unavailable(
            f"cannot read {error.filename}: {error.strerror}; systemd-networkd uses it: restore the "
            "file, or run `networkctl reload`, then run this again"
        ) from None


def stop(steps: Steps, client: DhcpClient, link: str) -> None:
    """Stop a client; the addresses stay on the interface."""
    if client.program == "dhcpcd":
        steps.change(f"stop dhcpcd on {link}", "dhcpcd", "--persistent", "--exit", *client.argv[1:])
    elif client.program != "systemd-networkd":
        for process in _in_this_namespace():
            if _arguments(process) == client.argv:
                _kill(steps, client, link, process)


def _kill(steps: Steps, client: DhcpClient, link: str, process: Path) -> None:
    steps.change(f"stop {client} on {link}", "kill", process.name)
    steps.wait(
        f"end of {client}",
        lambda: not _arguments(process),
        seconds=5,
        hint=f"try `kill -9 {process.name}`",
    )


def start(steps: Steps, client: DhcpClient, old: str, new: str, *, back: bool = False) -> None:
    """Start on *new* a client that ran on *old*; with *back*, *new* is the interface where it ran at first.

    Return when a DHCP client has a lease.
    """
    if client.program == "systemd-networkd":
        _hand_over(steps, client, old, new, back=back)
        return
    argv = [_renamed(word, old, new) for word in client.argv if word not in WAITING_OPTIONS]
    if client.program == "dhclient":
        _copy_leases(steps, client.argv, argv, old, new)
    if client.program == "udhcpc" and "-n" not in argv:
        argv.append("-n")  # end with an error if there is no lease
    if client.program == "dhclient":
        argv = ["timeout", LEASE_TIMEOUT, *argv]  # it would try for minutes (dhclient.conf(5), timeout)
    steps.change(f"start {client} on {new}", *argv)


def _renamed(word: str, old: str, new: str) -> str:
    """Return an argument, which may be a path, with the name of the other interface."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9])", new, word)


def _copy_leases(steps: Steps, argv: list[str], renamed: list[str], old: str, new: str) -> None:
    """Copy dhclient's leases, which hold its DUID: with a new one it gets another address (dhclient(8))."""
    if "-lf" not in argv:
        return
    source, target = (Path(words[words.index("-lf") + 1]) for words in (argv, renamed))
    if source == target or not source.exists():
        return
    steps.show(f"copy dhclient's lease of {old} to {new}", f'sed \'s/"{old}"/"{new}"/\' {source} > {target}')
    if not steps.dry_run:
        leases = source.read_text(encoding="utf-8", errors="surrogateescape")
        target.write_text(leases.replace(f'"{old}"', f'"{new}"'), encoding="utf-8", errors="surrogateescape")


def _network_file(link: str) -> Path:
    return NETWORKD / f"00-ovn-docker-{link}.network"


def _hand_over(steps: Steps, client: DhcpClient, old: str, new: str, *, back: bool) -> None:
    """Have systemd-networkd configure *new* as it did *old*, and not *old*, until the next boot."""
    if back:  # without our files the former ones apply again
        for link in (old, new):
            steps.change(f"remove the settings for {link}", "rm", "--force", str(_network_file(link)))
    else:
        _write(steps, _network_file(old), f"[Match]\nName={old}\n[Network]\nDHCP=no\nLinkLocalAddressing=no\n"
               "IPv6AcceptRA=no\n[Link]\nRequiredForOnline=no\n")  # fmt: skip
        rest = "\n".join(map(_without_match, settings(client)))
        _write(steps, _network_file(new), f"[Match]\nName={new}\n{rest}\n[Network]\nKeepConfiguration=yes\n")
    steps.change("have systemd-networkd read its files again", "networkctl", "reload")
    steps.wait(f"configuration of {new} by systemd-networkd", lambda: _configured(new, by_ours=not back),
               seconds=20, hint=f"see `networkctl status {new}`")  # fmt: skip


def _write(steps: Steps, path: Path, text: str) -> None:
    steps.show(f"write {path}", f"{printable.command('printf', '%s', text)} > {path}")
    if not steps.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _without_match(text: str) -> str:
    """Return a .network file without its [Match] section."""
    sections = re.split(r"(?m)^(?=\[)", text)
    return "".join(section for section in sections if not section.startswith("[Match]")).strip()


def _configured(link: str, *, by_ours: bool) -> bool:
    """True if systemd-networkd has configured the link, by our file or by another one."""
    state = _networkd_state(link)
    ours = state.get("NETWORK_FILE") == str(_network_file(link))
    return state.get("ADMIN_STATE") == "configured" and ours == by_ours
