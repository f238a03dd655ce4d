"""The distribution's file of options of ovn-ctl(8), with which its units, and we, start OVN's daemons.

On Debian it is /etc/default/ovn-central. The last line that sets the variable is in force (systemd.exec(5),
EnvironmentFile=). Our line is marked, comes last, and repeats the administrator's words. Words after ``--``
are arguments of both database servers.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovn_docker.errors import BadRequest
from ovn_docker.host.distribution import distribution
from ovn_docker.setup.steps import Steps
from ovn_docker.text.printable import command

_MARK = "# Written by `ovn-docker central start`; it has the options of the lines above too."
_BLOCK = re.compile(rf"(?m)^{re.escape(_MARK)}\n[A-Z_]+=.*(?:\n|$)")

Words = list[str]


def path() -> Path:
    """Return the file's path."""
    return distribution().options


def configured() -> Words:
    """Return the words that are in force."""
    return _words(_text())


def options(words: Sequence[str]) -> dict[str, str]:
    """Return the options of ovn-ctl(8) among the words, by name."""
    own, _ = _split(words)
    return {name: value for name, _, value in (word.partition("=") for word in own)}


def arguments(words: Sequence[str]) -> Words:
    """Return the arguments of the database servers among the words."""
    return _split(words)[1]


def merged(ours: Mapping[str, str], extra: Sequence[str]) -> Words:
    """Return the administrator's words and ours; *extra* are arguments of the database servers.

    An argument that the administrator gives the servers, such as other ciphers, is kept instead of ours.

    Raises:
        BadRequest: the administrator has another value for an option of ours.

    """
    own, arguments = _split(_words(_BLOCK.sub("", _text())))
    for word in own:
        name, _, value = word.partition("=")
        if name in ours and value != ours[name]:
            raise BadRequest(f"{path()} has {word}, but this needs {name}={ours[name]}; remove it there")
    kept = [word for word in own if word.partition("=")[0] not in ours]
    given = {_name(word) for word in arguments}
    arguments += [word for word in extra if _name(word) not in given]
    separator = ["--"] if arguments else []
    return [*kept, *(f"{name}={value}" for name, value in ours.items()), *separator, *arguments]


def write(steps: Steps, words: Sequence[str], effects: Sequence[str]) -> None:
    """Write the words with which the daemons are started from now on; *effects*: a line for each change."""
    line = f'{distribution().variable}="{" ".join(words)}"'
    what = f"set the daemons' options in {path()}"
    steps.show(what, f"echo {command(line)} >> {path()}", first=effects)
    if steps.dry_run:
        return
    text = _BLOCK.sub("", _text())
    if text and not text.endswith("\n"):
        text += "\n"
    _replace(f"{text}{_MARK}\n{line}\n")


def clear(steps: Steps) -> None:
    """Remove our line; the administrator's lines stay."""
    text = _text()
    if not _BLOCK.search(text):
        return
    steps.show(f"remove our options from {path()}", f"sed -i '/^{_MARK}$/,+1d' {path()}")
    if not steps.dry_run:
        _replace(_BLOCK.sub("", text))


def _replace(text: str) -> None:
    """Replace the file, with mode 0644 whatever the umask is: daemons of root are started with it."""
    file = path()
    partial = file.with_name(f".{file.name}.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial.touch(mode=0o644)
    partial.chmod(0o644)
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _text() -> str:
    try:
        return path().read_text(encoding="utf-8")
    except OSError:
        return ""


def _words(text: str) -> Words:
    prefix = f"{distribution().variable}="
    try:
        lines = [word for word in shlex.split(text, comments=True) if word.startswith(prefix)]
    except ValueError:
        raise BadRequest(f"cannot read {path()}: a quotation mark is not closed; correct it") from None
    return lines[-1].partition("=")[2].split() if lines else []


def _split(words: Sequence[str]) -> tuple[Words, Words]:
    """Return the options of ovn-ctl(8), and the words behind ``--``."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def _name(argument: str) -> str:
    """Return ``--ssl-ciphers`` of ``--ssl-ciphers=...``, and ``-vfile`` of ``-vfile:info``."""
    return re.split("[=:]", argument)[0]
