"""Put the files of an installation into place, and remove them: what ``ovn-docker install-files`` does.

The list is packaging/files. A wheel has it, and the files of packaging/ that it names, beside this module.
"""

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError
from ovn_docker.host.durable_files import replace_file
from ovn_docker.installation import completion
from ovn_docker.installation.manual_pages import manual
from ovn_docker.installation.usage import Command
from ovn_docker.setup.steps import Steps
from ovn_docker.text import printable

_PACKAGED = Path(__file__).with_name("data")
_SOURCES = Path(__file__).parents[3] / "packaging"
"""Directories with the list: of an installed wheel, and of a source tree."""

_PLACEHOLDER = "/opt/ovn-docker/bin/"
"""The programs' directory in the units of packaging/systemd."""

_MADE = {"manual": manual, "bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}
"""Sources that are made from a program's table: their directories in the list, and what makes them."""

_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))
"""Directories that the units cannot see (systemd.exec(5), ProtectHome=)."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where the files go: paths as the running system sees them, all of them below *root*."""

    root: Path
    share: Path
    units: Path
    settings: Path
    programs: Path
    """The directory that has the programs; written into the units."""


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file of the list, its content and its path below the root. *kept*: an administrator changes it."""

    path: Path
    text: str
    kept: bool


def find_data() -> Path:
    """Return the directory that has the list and its files.

    Raises:
        NotFound: this installation has none, because a package of the distribution has placed the files.

    """
    for directory in (_PACKAGED, _SOURCES):
        if (directory / "files").is_file():
            return directory
    raise NotFound(
        "this installation has no files to place: a package of the distribution has placed them; "
        "install ovn-docker with pipx to place them yourself"
    )


def check_programs(directory: Path) -> None:
    """Raise BadRequest if systemd's units could not start programs that are in *directory*."""
    if not directory.is_absolute() or any(char.isspace() or char in "%$\"'\\" for char in str(directory)):
        raise BadRequest(
            f"{str(directory)!r} cannot be written into systemd's units: give an absolute path without "
            "spaces, quotes, backslashes, % and $"
        )
    if any(directory.is_relative_to(hidden) for hidden in _HIDDEN):
        raise BadRequest(
            f"the programs are in {directory}, a user's own directory, which systemd's units cannot read: "
            "install them for all users, for example with `PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin "
            "pipx install ovn-docker`"
        )


def files(where: Destinations, programs: tuple[Command, ...]) -> Iterator[PlacedFile]:
    """Yield the files of the list, with the texts that they have at these destinations.

    Raises:
        NotFound: this installation has no list.

    """
    data = find_data()
    by_name = {program.name: program for program in programs}
    bases = {"SHARE": where.share, "UNITS": where.units, "SETTINGS": where.settings}
    for line in (data / "files").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        source, _, destination = line.split()
        kind, _, name = source.partition("/")
        base, _, rest = destination.partition("/")
        made = _MADE.get(kind)
        text = made(by_name[name]) if made else (data / source).read_text(encoding="utf-8")
        if base == "UNITS":
            text = text.replace(_PLACEHOLDER, f"{where.programs}/")
        path = where.root / (bases[base] / rest).relative_to("/")
        yield PlacedFile(path, text, kept=base == "SETTINGS")


def place(steps: Steps, wanted: list[PlacedFile]) -> None:
    """Write the files that are absent or differ, each atomically, with mode 0644 and directories of 0755.

    An administrator's file is written only if it is absent.

    Raises:
        Conflict: something that is not a file is in a file's place; nothing has been written.
        OvnDockerError: a file cannot be read or written.

    """
    changes = [one for one in wanted if _differs(one)]
    for one in changes:
        steps.show(f"write {printable.one_line(str(one.path))}", printable.command(*_command(one.path)))
        if not steps.dry_run:
            try:
                _write(one)
            except OSError as error:
                raise _failed("write", one.path, error) from None


def remove(steps: Steps, wanted: list[PlacedFile]) -> None:
    """Remove the files that are there, and their directories that are called ovn-docker once they are empty.

    An administrator's file is removed only if nobody has changed it.

    Raises:
        Conflict: something that is not a file is in a file's place; nothing has been removed.
        OvnDockerError: a file cannot be read or removed.

    """
    present = [one for one in wanted if _text(one.path) is not None]
    for one in present:
        shown = printable.one_line(str(one.path))
        if one.kept and _differs(one, modes=False):
            steps.advise(f"{shown} stays: it has been changed")
            continue
        steps.show(f"remove {shown}", printable.command("rm", str(one.path)))
        if steps.dry_run:
            continue
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", one.path, error) from None
        for directory in one.path.parents:
            if "ovn-docker" not in directory.parts[-2:]:
                break
            with suppress(OSError):  # another file is in it
                directory.rmdir()


def _command(path: Path) -> tuple[str, ...]:
    return ("install", "-D", "-m", "644", "/dev/stdin", str(path))


def _differs(one: PlacedFile, *, modes: bool = True) -> bool:
    found = _text(one.path)
    if found is None:
        return True
    if one.kept and modes:
        return False
    return found != one.text or (modes and stat.S_IMODE(one.path.stat().st_mode) != 0o644)


def _text(path: Path) -> str | None:
    """Return the text of a file, ``None`` if it is absent.

    Raises:
        Conflict: it is not a regular file.
        OvnDockerError: it cannot be read.

    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed("read", path, error) from None
    if not stat.S_ISREG(mode):
        raise Conflict(f"{printable.one_line(str(path))} is not a file: move it away")
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise _failed("read", path, error) from None


def _write(one: PlacedFile) -> None:
    absent = [directory for directory in one.path.parents if not directory.exists()]
    one.path.parent.mkdir(parents=True, exist_ok=True)
    for directory in absent:
        directory.chmod(0o755)  # whatever the umask is
    replace_file(one.path, one.text, 0o644)


def _failed(act: str, path: Path, error: OSError) -> OvnDockerError:
    return OvnDockerError(f"cannot {act} {printable.one_line(str(path))}: {error.strerror}; mend that first")
