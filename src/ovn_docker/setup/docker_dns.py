"""The name servers that dockerd has to ask so that containers find those of other hosts by name."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovn_docker.docker.engine import CONFIG, DockerEngine, dockerd_argument, dockerd_config, dockerds
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.host.distribution import distribution
from ovn_docker.host.nameservers import docker_asks_us, others
from ovn_docker.host.places import booted_with_systemd, find_places
from ovn_docker.host.processes import started
from ovn_docker.host.run import run, succeeds
from ovn_docker.model import NAMESERVERS
from ovn_docker.setup.docker_config import (
    ConfigFile,
    differences,
    parse_config,
    with_member,
    without_member,
)
from ovn_docker.setup.steps import Steps
from ovn_docker.text.printable import command, first_of, printable

_KEY = "dns"
_OURS = [str(server) for server in NAMESERVERS]

_AT_MOST = 3
"""Servers that Docker's resolver asks (moby daemon/libnetwork/resolver.go, maxExtDNS)."""

_NAMED = 10
"""Containers that a message names."""

_RESTART_TIME = 300.0
"""Time limit in seconds of a restart of Docker, which waits for containers to end."""

_SCRIPTS = Path("/etc/init.d")

_NO_OTHER = "a name server of yours as the third: containers ask no other server"


def advice() -> str:
    """Return the configuration of dockerd with these name servers, as advice; empty if dockerd has them."""
    if docker_asks_us():
        return ""
    rest = others()
    config = dockerd_config() | {_KEY: [*_OURS, *rest][:_AT_MOST]}
    lines = json.dumps(config, indent=4).replace("\n", "\n    ")
    warning = "" if rest else f"\n(with {_NO_OTHER})"
    return (
        f"note: containers find those of other hosts by name if Docker asks OVN; write into {CONFIG}\n"
        f"    {lines}\nand restart dockerd{warning}\n"
        "or repeat `ovn-docker join` or `host setup` with --docker-dns --restart-docker"
    )


class DnsChange:
    """A change of dockerd's ``dns``, planned before anything else changes, so that a bad file stops all.

    Args:
        wanted: whether dockerd is to ask OVN; ``None``: print advice only.
        restart: restart dockerd if it runs with another ``dns``.
        config: dockerd's configuration file, unless its arguments name another.

    Raises:
        BadRequest: dockerd's configuration file is invalid, or *restart* is set without *wanted*.
        Conflict: dockerd's arguments have ``--dns``, or there are several configuration files.
        Unavailable: the file cannot be read, or dockerd cannot be restarted.

    """

    def __init__(self, *, wanted: bool | None, restart: bool = False, config: Path = CONFIG) -> None:
        if restart and wanted is None:
            raise BadRequest("--restart-docker is for --docker-dns and --no-docker-dns; give one of them")
        self._wanted = wanted
        self._restart = _restart_command() if restart and dockerds() else ()
        self._file = ConfigFile(config)
        self._old = self._new = ""
        self._backup: str | None = None
        if wanted is not None:
            self._plan(wanted=wanted)

    def _plan(self, *, wanted: bool) -> None:
        files = set(dockerd_argument("config-file"))
        if len(files) > 1:
            names = printable(", ".join(sorted(files)))
            raise Conflict(f"dockerd has several configuration files: {names}; edit {_KEY} in them yourself")
        if files:
            self._file = ConfigFile(Path(files.pop()))
        if wanted and dockerd_argument(_KEY):
            raise Conflict(
                f"dockerd has --{_KEY} among its arguments, and does not start if its configuration file has "
                f"{_KEY} too; remove it there, then run this again"
            )
        self._old, self._backup = self._file.read(), self._file.read_backup()
        config = parse_config(self._old, self._file.path)
        self._new = self._added(config) if wanted else self._removed(config)

    def _added(self, config: dict[str, Any]) -> str:
        """Return the file with OVN's name servers first."""
        given = self._servers(config)
        rest = [server for server in given if server not in _OURS] or others()[: _AT_MOST - len(_OURS)]
        wanted = [*_OURS, *rest]
        return self._old if given == wanted else with_member(self._old, _KEY, wanted, self._file.path)

    def _removed(self, config: dict[str, Any]) -> str:
        """Return the file without OVN's name servers; the one of the backup if nothing else has changed.

        If there was no list before, the server that _added() has added is removed with it.
        """
        given = self._servers(config)
        rest = [server for server in given if server not in _OURS]
        if rest == given:
            return self._old
        before = None if self._backup is None else parse_config(self._backup, self._file.backup)
        if not rest or (before is not None and _KEY not in before and len(rest) <= _AT_MOST - len(_OURS)):
            new = without_member(self._old, _KEY, self._file.path)
        else:
            new = with_member(self._old, _KEY, rest, self._file.path)
        same = self._backup is not None and parse_config(new, self._file.path) == before
        return self._backup or "" if same else new

    def _servers(self, config: dict[str, Any]) -> list[str]:
        servers = config.get(_KEY, [])
        if not isinstance(servers, list) or not all(isinstance(server, str) for server in servers):
            where, found = printable(str(self._file.path)), json.dumps(servers)
            raise BadRequest(
                f"{_KEY} in {where} is not a list of strings: {found}; correct it, then run this again"
            )
        return servers

    def make(self, steps: Steps) -> None:
        """Write the file if it differs, and restart dockerd if that is asked for.

        Raises:
            Unavailable: the file cannot be written.
            StepFailed: the restart failed.
            TimedOut: the restart took too long.

        """
        if self._wanted is None:
            if text := advice():
                steps.advise(text)
            return
        if self._new != self._old:
            self._write(steps)
        elif not self._wanted and not steps.dry_run and self._backup == self._old:
            self._file.drop_backup()  # a run that was killed has left it
        if self._wanted and not others():
            steps.advise(f"warning: add to {_KEY} in {printable(str(self._file.path))} {_NO_OTHER}")
        self._bring_into_force(steps)

    def _write(self, steps: Steps) -> None:
        path, backup = self._file.path, self._file.backup
        what = "have Docker ask OVN for names" if self._wanted else "have Docker ask OVN no more for names"
        seen = command("diff", str(backup), str(path)) if self._wanted else command("cat", str(path))
        shown = "\n".join((f"{what}:", *differences(self._old, self._new, path)))
        steps.show(shown, f"{seen}  # to see it")
        if steps.dry_run:
            return
        if self._wanted:
            # A file that already has our servers may be our own work: it replaces no backup.
            if self._backup is None or not set(_OURS) & set(self._servers(parse_config(self._old, path))):
                self._file.back_up()
            self._file.replace(self._new)
        elif self._new == self._backup:
            self._file.restore(self._new)
        else:
            self._file.replace(self._new)

    def _bring_into_force(self, steps: Steps) -> None:
        """Restart dockerd if it was started before the file changed, or print what a restart stops."""
        changed = self._new != self._old
        if not dockerds() or not (changed or self._is_older()):
            return
        effects = _effects()
        if not self._restart:
            steps.advise(f"note: restart Docker for this to take effect, or give --restart-docker: {effects}")
            return
        steps.advise(f"note: Docker is restarted: {effects}")
        steps.show("restart Docker", command(*self._restart))
        if steps.dry_run:
            return
        before = set(dockerds())
        run(self._restart, _RESTART_TIME)
        steps.wait(
            "the restart of Docker",
            lambda: not before & set(dockerds()) and _answers(),
            seconds=60,
            hint=f"see `journalctl -u {distribution().docker}`" if booted_with_systemd() else "see its log",
        )

    def _is_older(self) -> bool:
        """Return whether a dockerd is older than the file: this program was killed before the restart."""
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        with suppress(OSError, ValueError):
            written = self._file.path.stat().st_mtime
            starts = [boot + (started(pid) + 1) / os.sysconf("SC_CLK_TCK") for pid in dockerds()]
            return any(start < written for start in starts)
        return False


def _effects() -> str:
    """Return what a restart of Docker does to the running containers."""
    engine = DockerEngine(find_places().docker)
    try:
        if engine.keeps_containers():
            return "it stops no container: Docker has live-restore"
        names = engine.running()
    except OvnDockerError as error:
        return f"it may stop containers ({error})"
    if not names:
        return "it stops no container: none runs"
    return f"it stops {first_of(printable(names), _NAMED)}; those with a restart policy start again"


def _answers() -> bool:
    try:
        DockerEngine(find_places().docker).keeps_containers()
    except OvnDockerError:
        return False
    return True


def _restart_command() -> tuple[str, ...]:
    """Return the command that restarts Docker. Raises Unavailable if this machine has none that is known."""
    name = distribution().docker
    if booted_with_systemd():
        if succeeds("systemctl", "is-active", "--quiet", name):
            return ("systemctl", "restart", name)
        raise Unavailable(f"the unit {name} does not run this machine's dockerd: restart that yourself")
    if (_SCRIPTS / name).exists():
        return ("service", name, "restart")
    raise Unavailable("this machine has neither systemd nor /etc/init.d/docker: restart dockerd yourself")
