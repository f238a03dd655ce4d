"""The listeners of OVN's databases, set by arguments of the servers, not by rows that clients can change.

By default ovn-ctl(8) has a server take listeners, key, TLS versions and ciphers from rows of the database it
serves, and every host may write the northbound one. Here the server gets all of them as arguments, which are
kept in the file of `ovn_ctl`.

The southbound database with access control is the exception: only a row gives a listener a role
(ovsdb-server(1) of 3.1 has no argument for it). Clients that have the role cannot change the row.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.errors import BadRequest
from ovn_docker.host.run import run
from ovn_docker.model import IpAddress
from ovn_docker.setup.central import ovn_ctl
from ovn_docker.setup.databases import SOUTHBOUND, CentralDatabase
from ovn_docker.setup.own_addresses import in_url
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TlsFiles
from ovn_docker.text.printable import printable

ROLE = "ovn-controller"
"""The only role for which ovn-northd writes rules (ovn-sb(5), RBAC_Role)."""

LOG = ("-vconsole:off", "-vfile:info")
"""The default of ``--ovn-nb-log`` and ``--ovn-sb-log`` (ovn-ctl(8)), which `Listener.options` replaces."""

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers of TLS 1.2 with forward secrecy and authentication (RFC 7525, section 4.2)."""

_REMOTE = re.compile(r"p(tcp|ssl):(\d+)(?::(.+))?")
_PATH = re.compile(r"/[\w./@+-]+")


@dataclass(frozen=True)
class Listener:
    """The listener of a database. *restricted*: a row sets it, with the role of access control."""

    database: CentralDatabase
    target: str
    """A passive connection method (ovsdb(7)): ``pssl:6641:10.0.0.1``."""
    tls: TlsFiles | None = None
    restricted: bool = False

    def options(self) -> dict[str, str]:
        """Return the options of ovn-ctl(8) that start the server with this listener.

        ovn-ctl has no option for a TLS listener. Only its option for a server's logging has a value that it
        passes unchanged to one server.
        """
        short = self.database.short
        found = {f"--db-{short}-use-remote-in-db": "yes" if self.restricted else "no"}
        found[f"--db-{short}-create-insecure-remote"] = "no"
        if not self.restricted:
            found[f"--ovn-{short}-log"] = f"--remote={self.target}"
        if self.tls:
            for name, path in zip(("key", "cert", "ca-cert"), self.tls, strict=True):
                found[f"--ovn-{short}-db-ssl-{name}"] = path
        return found

    def is_in_force(self, words: Sequence[str]) -> bool:
        """Return whether the server has this listener; *words*: those for `ovn_ctl`."""
        remotes = self.database.remotes()
        if self.database.row_remote in remotes:
            if not self.restricted:
                return False
        elif self.restricted or self.target not in remotes:
            return False
        given = self.database.arguments()
        wanted = [word.partition("=") for word in ovn_ctl.arguments(words) if word.startswith("--ssl-")]
        if self.tls:
            files = zip(("--private-key", "--certificate", "--ca-cert"), self.tls, strict=True)
            return all(given.get(n) == v for n, v in [*files, *((n, v) for n, _, v in wanted)])
        return True


def now(database: CentralDatabase) -> Listener | None:
    """Return the listener that a database has, or would have if it were started; ``None`` if it has none."""
    running = database.pid() is not None
    options = ovn_ctl.options(ovn_ctl.configured())
    remotes = database.remotes() if running else [_fixed(options, database)]
    target = next((one for one in remotes if _is_ours(database, one)), None)
    if target:
        return Listener(database, target, _tls(options, database))
    if running and database.row_remote not in remotes:
        return None
    if row := database.listening():
        return Listener(database, row[1], _tls(options, database) or database.row_tls(), row[2] == ROLE)
    return None


def tls(database: CentralDatabase) -> TlsFiles | None:
    """Return key and certificates of a database's server, or ``None``."""
    return _tls(ovn_ctl.options(ovn_ctl.configured()), database) or database.row_tls()


def restricted_by_options() -> bool | None:
    """Return whether the options give the southbound database access control; ``None``: no such option."""
    value = ovn_ctl.options(ovn_ctl.configured()).get(f"--db-{SOUTHBOUND.short}-use-remote-in-db")
    return None if value is None else value == "yes"


def wanted(
    steps: Steps,
    database: CentralDatabase,
    ip: IpAddress | None,
    files: TlsFiles | None,
    *,
    restricted: bool | None,
    default: str = "",
) -> Listener:
    """Return the listener that a database is to have. *default*: its target if it has no listener yet.

    Raises:
        BadRequest: there is no key for TLS, or a row has a value that is not safe to use.

    """
    old = now(database)
    target = wanted_target(database.port, old.target if old else default or None, ip, tls=files is not None)
    secure = target.startswith("pssl:")
    if secure and files is None:
        files = tls(database)
        if files is None:
            raise BadRequest(f"the {database.title} listens with TLS and has no key; give --tls DIRECTORY")
        if not _tls(ovn_ctl.options(ovn_ctl.configured()), database):
            steps.advise(
                f"warning: the {database.title} has its key and certificates from a row that hosts could "
                f"change: if {', '.join(map(printable, files))} are not yours, give --tls DIRECTORY"
            )
    if restricted is None:
        restricted = old is not None and old.restricted
    return checked(Listener(database, target, files, restricted and secure and database is SOUTHBOUND))


def wanted_target(port: int, old: str | None, ip: IpAddress | None, *, tls: bool) -> str:
    """Return the connection method to listen with (ovsdb(7), "Passive Connection Methods").

    Settings that are not given stay as they are: TLS is never turned off, and no address is widened.
    """
    method, _, rest = (old or f"ptcp:{port}").partition(":")
    _, _, host = rest.partition(":")
    if tls:
        method = "pssl"
    if ip is not None:
        host = in_url(ip)
    return ":".join(part for part in (method, str(port), host) if part)


def checked(listener: Listener) -> Listener:
    """Return *listener*, which may come from a row, if its values are safe in a file that shells read.

    Raises:
        BadRequest: a value is not safe there.

    """
    found = _REMOTE.fullmatch(listener.target)
    try:
        if found and found[3]:
            ip_address(found[3].removeprefix("[").removesuffix("]"))
    except ValueError:
        found = None
    if not found:
        raise BadRequest(
            f"a row has the {listener.database.title} listen on {printable(listener.target)!r}, which is not "
            "an address; give --address"
        )
    for path in listener.tls or ():
        if not (_PATH.fullmatch(path) and Path(path).is_file()):
            raise BadRequest(
                f"{printable(path)!r} is not a file with a name that ovn-ctl can take; give --tls DIRECTORY "
                "with a path of letters, digits and ./@+-"
            )
    return listener


def words(listeners: Iterable[Listener], others: dict[str, str]) -> list[str]:
    """Return the words with which the daemons are to be started; *others*: more options of ovn-ctl(8)."""
    ours = dict(others)
    for listener in listeners:
        ours |= listener.options()
    return ovn_ctl.merged(ours, [*LOG, *(_tls_arguments() if any(one.tls for one in listeners) else ())])


def describe(listeners: Iterable[Listener]) -> list[str]:
    """Return the differences from the listeners that the databases have now, a line for each."""
    lines = []
    for listener in listeners:
        old = now(listener.database)
        before = replace(old, tls=None) if old else None
        if before != replace(listener, tls=None):
            was = _in_words(old) if old else "(nowhere)"
            lines.append(f"let the {listener.database.title} listen: {was} -> {_in_words(listener)}")
    return lines


def _in_words(listener: Listener) -> str:
    return f"{printable(listener.target)}{', with access control' if listener.restricted else ''}"


def keep_row(steps: Steps, listener: Listener) -> None:
    """Make the row of a restricted database the only one, with its role; other settings in it stay."""
    database = listener.database
    rows = database.connections()
    kept = next((row for row in rows if _is_ours(database, row[1])), None)
    for uuid, target, _ in rows:
        if kept is None or uuid != kept[0]:
            steps.change(
                f"remove the row that had the {database.title} listen on {printable(target)}",
                *database.tool, "remove", database.root, ".", "connections", uuid,
            )  # fmt: skip
    new = (f'target="{listener.target}"', f'role="{ROLE}"')
    what = f"let hosts change only their own rows of the {database.title}, which listens on {listener.target}"
    if kept is None:
        steps.change(
            what, *database.tool, "--id=@c", "create", "Connection", *new,
            "--", "add", database.root, ".", "connections", "@c",
        )  # fmt: skip
    elif kept[1:] != (listener.target, ROLE):
        steps.change(what, *database.tool, "set", "Connection", kept[0], *new)


def remove_rows(steps: Steps, listener: Listener) -> None:
    """Remove the rows of listeners and keys, which have no effect any more.

    In a cluster they stay: a member that an earlier version has set up still listens where a row says.
    """
    database = listener.database
    targets = "" if listener.restricted else printable(", ".join(row[1] for row in database.connections()))
    if database.clustered():
        if targets:
            command = " ".join((*database.tool, "del-connection"))
            steps.advise(
                f"note: rows of the {database.title} have no effect on this machine any more ({targets}); "
                f"when this has run on all members, remove them: {command}"
            )
        return
    if targets:
        steps.change(
            f"remove the rows that had the {database.title} listen: {targets}",
            *database.tool,
            "del-connection",
        )
    if database.row_tls():
        steps.change(f"remove the row with the key of the {database.title}", *database.tool, "del-ssl")


def remark(database: CentralDatabase) -> str:
    """Return a remark about rows of a running database that set a listener; usually empty."""
    targets = printable(", ".join(row[1] for row in database.connections()))
    if database.row_remote not in database.remotes():
        return f"rows without effect: {targets}" if targets and not database.clustered() else ""
    row = database.listening()
    if row and row[1].startswith("pssl:") and row[2] != ROLE:
        return "a row says so, which every host can change: run `ovn-docker central start`"
    return ""


def _tls_arguments() -> tuple[str, ...]:
    """Return the arguments for TLS 1.2 and, from Open vSwitch 3.5 on, 1.3, which earlier ones refuse."""
    version = re.search(r"(\d+)\.(\d+)", run(("ovsdb-server", "--version")))
    new = version is not None and (int(version[1]), int(version[2])) >= (3, 5)
    return (f"--ssl-protocols={'TLSv1.2,TLSv1.3' if new else 'TLSv1.2'}", f"--ssl-ciphers={CIPHERS}")


def _fixed(options: dict[str, str], database: CentralDatabase) -> str:
    return options.get(f"--ovn-{database.short}-log", "").removeprefix("--remote=")


def _is_ours(database: CentralDatabase, target: str) -> bool:
    return re.match(rf"p(tcp|ssl):{database.port}(:|$)", target) is not None


def _tls(options: dict[str, str], database: CentralDatabase) -> TlsFiles | None:
    files = [options.get(f"--ovn-{database.short}-db-ssl-{file}", "") for file in ("key", "cert", "ca-cert")]
    return TlsFiles(*files) if all(files) else None
