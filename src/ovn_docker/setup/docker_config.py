"""The configuration file of dockerd, changed in place: one member of its JSON object, all or nothing.

Only the characters of that member change; the others keep their order, indentation and spelling of numbers.
"""

import difflib
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.host.durable_files import replace_file
from ovn_docker.text.printable import printable

_SPACE = re.compile(r"[ \t\r\n]*")
_INDENTATION = " " * 4
_MODE = 0o644
"""Mode of a file that did not exist: it has no secrets, and users' tools read it."""


def parse_config(text: str, origin: Path) -> dict[str, Any]:
    """Return the object that a configuration file has; empty for an empty file, as dockerd takes it.

    Raises:
        BadRequest: it is not an object of JSON (RFC 8259).

    """
    if not text.strip(" \t\r\n"):
        return {}
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except (RecursionError, ValueError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _invalid(origin, f"it is not JSON{where}") from None
    if not isinstance(found, dict):
        raise _invalid(origin, "it is not a JSON object")
    return found


def with_member(text: str, name: str, value: Sequence[str], origin: Path) -> str:
    """Return the text of a configuration with a list of strings as the value of a member.

    Raises:
        BadRequest: *text* is not an object of JSON, or has the member twice.

    """
    if not parse_config(text, origin):
        text = text if text.strip() else "{}\n"
        close = text.rindex("}")
        return f"{text[: text.index('{') + 1]}\n{_INDENTATION}{_member(name, value)}\n{text[close:]}"
    members = list(_members(text))
    if old := _only(members, name, origin):
        return text[: old.value] + _list(value, _indentation(text, old)) + text[old.end :]
    last = members[-1]
    indentation = _indentation(text, last)
    gap = " " if indentation is None else f"\n{indentation}"
    return f"{text[: last.end]},{gap}{_member(name, value, indentation)}{text[last.end :]}"


def without_member(text: str, name: str, origin: Path) -> str:
    """Return the text of a configuration without a member. Raises BadRequest, as with_member() does."""
    parse_config(text, origin)
    members = list(_members(text))
    old = _only(members, name, origin)
    if old is None:
        return text
    number = members.index(old)
    if number:  # with the comma before it
        return text[: members[number - 1].end] + text[old.end :]
    if len(members) > 1:
        return text[: old.start] + text[members[1].start :]
    return text[: text.index("{") + 1] + text[text.rindex("}") :]


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of the outermost object, by offsets in the text: *start* of its name, *value*, *end*."""

    name: str
    start: int
    value: int
    end: int


def _members(text: str) -> Iterator[_Member]:
    """Yield the members of the object in a valid text."""
    decoder = json.JSONDecoder()
    position = _skip(text, text.find("{") + 1)
    while text and text[position] != "}":
        start = position
        name, position = decoder.raw_decode(text, start)
        value = _skip(text, _skip(text, position) + 1)
        _, end = decoder.raw_decode(text, value)
        yield _Member(name, start, value, end)
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """Return the position after white space."""
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _only(members: Sequence[_Member], name: str, origin: Path) -> _Member | None:
    found = [member for member in members if member.name == name]
    if len(found) > 1:
        raise _invalid(origin, f"it has {name!r} twice")
    return found[0] if found else None


def _indentation(text: str, member: _Member) -> str | None:
    """Return the white space before a member; ``None`` if other text is in the same line."""
    line = text[text.rfind("\n", 0, member.start) + 1 : member.start]
    return None if line.strip() or "\n" not in text else line


def _member(name: str, value: Sequence[str], indentation: str | None = _INDENTATION) -> str:
    return f"{json.dumps(name)}: {_list(value, indentation)}"


def _list(value: Sequence[str], indentation: str | None) -> str:
    """Return a list as text: a line for each item, or one line if the file has no *indentation*."""
    if not indentation:
        return json.dumps(value)
    items = ",".join(f"\n{indentation * 2}{json.dumps(item)}" for item in value)
    return f"[{items}\n{indentation}]"


def differences(old: str, new: str, path: Path) -> list[str]:
    """Return the lines of a unified diff of two texts of a file, without the line of its time."""
    found = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), str(path), n=2, lineterm="")
    return list(found)


class ConfigFile:
    """A file that is read and replaced by its owner, root; *path* may be a symbolic link to it.

    The backup beside it is a copy of the file as it was before this program changed it; empty if there was no
    file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.backup = self.path.with_name(f"{self.path.name}.ovn-docker-backup")

    def read(self) -> str:
        """Return its text; empty if there is none. Raises BadRequest, Unavailable."""
        return _read(self.path)

    def read_backup(self) -> str | None:
        """Return the text of the backup; ``None`` if there is none. Raises BadRequest, Unavailable."""
        return _read(self.backup) if self.backup.exists() else None

    def replace(self, text: str) -> None:
        """Write a text, whole or not at all. Raises Unavailable."""
        with _directory_of(self.path):
            _replace(self.path, text, like=self.path)

    def back_up(self) -> None:
        """Copy the file to the backup. Raises BadRequest, Unavailable."""
        with _directory_of(self.path):
            _replace(self.backup, self.read(), like=self.path)

    def restore(self, text: str) -> None:
        """Write the *text* of the backup, or remove the file if that is empty; then remove the backup.

        Raises Unavailable.
        """
        with _directory_of(self.path):
            if text:
                _replace(self.path, text, like=self.path)
            else:
                self.path.unlink(missing_ok=True)
            self.backup.unlink(missing_ok=True)

    def drop_backup(self) -> None:
        """Remove the backup, if there is one. Raises Unavailable."""
        try:
            self.backup.unlink(missing_ok=True)
        except OSError as error:
            raise _failure(self.backup, error) from None


@contextmanager
def _directory_of(path: Path) -> Iterator[None]:
    """Lock a file's directory, which is made if it is absent; changes of it are on disk afterwards."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _failure(path, error) from None


def _replace(path: Path, text: str, *, like: Path) -> None:
    """Replace a file by one with the mode and owner of another, if that exists; in a locked directory."""
    try:
        model = like.stat()
    except FileNotFoundError:
        replace_file(path, text, _MODE)
    else:
        replace_file(path, text, stat.S_IMODE(model.st_mode), (model.st_uid, model.st_gid))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise _invalid(path, "it is not UTF-8") from None
    except OSError as error:
        raise Unavailable(f"cannot read {printable(str(path))}: {error.strerror}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _invalid(path: Path, why: str) -> BadRequest:
    return BadRequest(f"{printable(str(path))} cannot be changed: {why}; correct it, then run this again")


def _failure(path: Path, error: OSError) -> Unavailable:
    return Unavailable(f"cannot write {printable(str(path))}: {error.strerror}")
