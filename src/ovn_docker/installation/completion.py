"""Completion for bash, zsh and fish: commands, options, their values, names of containers and networks.

shtab 1.13 was tried on our parsers. It describes a command by the first line of its --help text, cut off in
the middle of a sentence, not by its summary; names of containers and networks would still need shell code of
our own for each of the three shells; and every installation would need one more package. So this is here.
"""

import re
from collections.abc import Iterator
from shlex import quote

from ovn_docker.installation.usage import Argument, Command

_FILES = {"FILE", "PATH", "PEM", "DIR"}
"""Metavariables of values that are files."""

_CONTAINERS = "docker ps --format '{{.Names}}' 2>/dev/null"
_NETWORKS = "docker network ls --filter driver=openvswitch --format '{{.Name}}' 2>/dev/null"
_LISTED = {
    "CONTAINER": _CONTAINERS,
    "A": _CONTAINERS,
    "B": _CONTAINERS,
    "NETWORK": _NETWORKS,
    "NAME": f"{_CONTAINERS}; {_NETWORKS}",
}
"""Commands that list the names on this host that a value or an operand can be, by its metavariable."""


def bash(program: Command) -> str:
    """Return the file for /usr/share/bash-completion/completions, which has the program's name."""
    function = "_" + _plain(program.name)
    return f"""# Completion of {program.name} for bash; generated from the program itself.
{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} path={program.name} word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$path $word" in
{_cases(program, 12, "path='{}'")}
        esac
    done
    COMPREPLY=()
    case "$path $prev" in
{_bash_values(program)}
    esac
    case $path in
{_bash_words(program)}
    esac
}}
complete -F {function} {program.name}
"""


def zsh(program: Command) -> str:
    """Return the file ``_PROGRAM`` for a directory of $fpath."""
    return f"""#compdef {program.name}
# Completion of {program.name} for zsh; generated from the program itself.
local at={quote(program.name)} word
local -a found
for word in ${{words[2,CURRENT-1]}}; do
    case "$at $word" in
{_cases(program, 8, "at='{}'")}
    esac
done
case "$at ${{words[CURRENT-1]}}" in
{_zsh_values(program)}
esac
case $at in
{_zsh_words(program)}
esac
"""


def fish(program: Command) -> str:
    """Return the file ``PROGRAM.fish`` for vendor_completions.d."""
    function = "__at_" + _plain(program.name)
    lines = [
        f"# Completion of {program.name} for fish; generated from the program itself.",
        f"function {function}",
        f"    set -l at {quote(program.name)}",
        "    for word in (commandline -opc)[2..]",
        '        switch "$at $word"',
        *(
            f"            case {quote(one.name)}\n                set at {quote(one.name)}"
            for one in program.all()
            if one is not program
        ),
        "        end",
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
        f"complete -c {program.name} -f",
    ]
    for command in program.all():
        here = f"complete -c {program.name} -n {quote(f'{function} {quote(command.name)}')}"
        lines += [f"{here} -a {one.words[-1]} -d {_about(one.summary)}" for one in command.commands]
        lines += [_fish_argument(here, argument) for argument in command.arguments]
    return "\n".join(filter(None, lines)) + "\n"


def _fish_argument(here: str, argument: Argument) -> str:
    values = ""
    if argument.choices:
        values = f" -a {quote(' '.join(argument.choices))}"
    elif argument.value in _LISTED:
        values = f' -a "({_LISTED[argument.value]})"'
    elif argument.value in _FILES:
        values = " -F"
    if not argument.names:
        return f"{here}{values}" if values else ""
    names = " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in argument.names
    )
    takes = f" -r{values}" if argument.value else ""
    return f"{here} {names}{takes} -d {_about(argument.help)}"


def _cases(program: Command, indent: int, do: str) -> str:
    commands = [one.name for one in program.all() if one is not program]
    lines = [f"{' ' * indent}{quote(name)}) {do.format(name)} ;;" for name in commands]
    return "\n".join(lines or [f"{' ' * indent}'') ;;"])


def _valued(program: Command) -> Iterator[tuple[str, Argument]]:
    """Yield, for each option with a value, the pattern of the words before the value."""
    for command in program.all():
        for argument in command.arguments:
            if argument.names and argument.value:
                yield "|".join(quote(f"{command.name} {name}") for name in argument.names), argument


def _bash_values(program: Command) -> str:
    lines = []
    for pattern, argument in _valued(program):
        if argument.choices:
            do = f'mapfile -t COMPREPLY < <(compgen -W {quote(" ".join(argument.choices))} -- "$cur")'
        elif argument.value in _FILES:
            do = 'mapfile -t COMPREPLY < <(compgen -f -- "$cur")'
        elif argument.value in _LISTED:
            do = f'mapfile -t COMPREPLY < <(compgen -W "$({_LISTED[argument.value]})" -- "$cur")'
        else:
            do = "COMPREPLY=()"
        lines.append(f"        {pattern}) {do}; return ;;")
    return "\n".join(lines or ["        '') ;;"])


def _bash_words(program: Command) -> str:
    lines = []
    for command in program.all():
        words = [one.words[-1] for one in command.commands]
        words += [name for argument in command.arguments for name in argument.names if name.startswith("--")]
        operands = [argument for argument in command.arguments if not argument.names]
        words += [choice for argument in operands for choice in argument.choices]
        names = dict.fromkeys(_LISTED[one.value] for one in operands if one.value in _LISTED)
        listed = " ".join([*words, "--help", *(f"$({command})" for command in names)])
        shown = f'"{listed}"' if names else quote(listed)
        lines.append(
            f'        {quote(command.name)}) mapfile -t COMPREPLY < <(compgen -W {shown} -- "$cur") ;;'
        )
    return "\n".join(lines)


def _zsh_values(program: Command) -> str:
    lines = []
    for pattern, argument in _valued(program):
        if argument.choices:
            do = f"compadd -- {' '.join(map(quote, argument.choices))}"
        else:
            do = "_files" if argument.value in _FILES else f"_message {quote(argument.value)}"
            if argument.value in _LISTED:
                do = _zsh_listed(_LISTED[argument.value])
        lines.append(f"    {pattern}) {do}; return ;;")
    return "\n".join(lines or ["    '') ;;"])


def _zsh_words(program: Command) -> str:
    lines = []
    for command in program.all():
        words = [(one.words[-1], one.summary) for one in command.commands]
        operands = [argument for argument in command.arguments if not argument.names]
        words += [(choice, argument.help) for argument in operands for choice in argument.choices]
        options = [
            (name, argument.help)
            for argument in command.arguments
            for name in argument.names
            if name.startswith("--")
        ]
        lines.append(f"    {quote(command.name)})")
        names = dict.fromkeys(_LISTED[one.value] for one in operands if one.value in _LISTED)
        lines += [f"        {_zsh_listed(command)}" for command in names]
        for given in filter(None, (words, [*options, ("--help", "show help")])):
            listed = " ".join(quote(f"{word}:{_line(about)}".rstrip(":")) for word, about in given)
            lines += [f"        found=({listed})", f"        _describe {quote(command.name)} found"]
        lines.append("        ;;")
    return "\n".join(lines)


def _zsh_listed(command: str) -> str:
    return f'compadd -- ${{(f)"$({command})"}}'


def _about(text: str) -> str:
    return quote(_line(text))


def _line(text: str) -> str:
    return " ".join(text.replace(":", ",").split())


def _plain(name: str) -> str:
    return re.sub("[^a-z]", "_", name)
