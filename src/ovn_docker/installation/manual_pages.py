"""Manual pages of section 8, made from the programs' own tables.

argparse-manpage 4.8 was tried. It fills the lines of examples into paragraphs, copies argparse's usage as it
stands, and lists the commands of a group as "positional arguments"; the functions here are shorter than its
configuration would be.
"""

import re
from collections.abc import Iterator

from ovn_docker import __version__
from ovn_docker.installation.usage import Command


def manual(program: Command) -> str:
    """Return a page of section 8 for man(1), in the language of man(7)."""
    lines = [
        f'.TH {program.name.upper()} 8 "" "ovn-docker {__version__}" "ovn-docker"',
        ".SH NAME",
        _roff(f"{program.name} - {program.summary}"),
        ".SH SYNOPSIS",
        f".B {_roff(program.name)}",
        _roff("COMMAND [OPTION]..." if program.commands else "[OPTION]..."),
        ".SH DESCRIPTION",
        *_roff_text(program.text),
    ]
    if program.arguments:
        lines += [".SH OPTIONS", *_roff_arguments(program)]
    if program.commands:
        lines.append(".SH COMMANDS")
    for command in program.all():
        if command is not program and not command.commands:
            lines += [f'.SS "{_roff(command.synopsis)}"', *_roff_text(command.text or command.summary)]
            lines += _roff_arguments(command)
            if command.examples:
                lines += [".PP", "Examples:", ".EX", *map(_roff, command.examples.splitlines()), ".EE"]
    lines += [
        ".SH EXIT STATUS",
        *_roff_text("0: done; 1: failed, or a fault was found; 2: wrong usage; 3: something does not run."),
        ".SH SEE ALSO",
        r"\fBdocker\fP(1), \fBovs-vswitchd\fP(8), \fBovn-controller\fP(8), \fBovn-architecture\fP(7)",
    ]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _roff_text(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(filter(None, re.split(r"\n\s*\n", text.strip()))):
        if number:
            yield ".PP"
        yield from (_roff(line.strip()) for line in paragraph.splitlines())


def _roff_arguments(command: Command) -> Iterator[str]:
    for argument in command.arguments:
        yield ".TP"
        yield f".B {_roff(argument.shown)}"
        yield _roff(" ".join(argument.help.split()) or "See above.")
