"""The command line as data, from which completion, manual pages and the reference are generated.

argparse has no public way to list a parser's arguments; only this module uses argparse's internals.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from ovn_docker.settings import Settings, UnderlaySettings


@dataclass(frozen=True, slots=True)
class Argument:
    """An option (with *names*) or an operand. *value*: the metavariable of its value; empty without a value.

    *optional*: the value of the option may be left out.
    """

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    help: str
    required: bool = False
    many: bool = False
    optional: bool = False

    @property
    def shown(self) -> str:
        """``-o, --output FILE``."""
        value = self.value if not self.many or not self.names else f"{self.value}..."
        value = f"[{value}]" if self.optional else value
        return ", ".join(self.names) + (f" {value}" if value else "") if self.names else value

    @property
    def synopsis(self) -> str:
        """``[--output FILE]``; ``[--rbac|--no-rbac]``."""
        names = "|".join(name for name in self.names if name.startswith("--"))
        whole = " ".join(filter(None, (names, f"[{self.value}]" if self.optional else self.value)))
        whole += "..." if self.many else ""
        return whole if self.required else f"[{whole}]"


@dataclass(frozen=True, slots=True)
class Command:
    """A command or a program. *text*: the paragraphs of its help; *examples*: lines to type."""

    words: tuple[str, ...]
    summary: str
    text: str
    examples: str
    arguments: tuple[Argument, ...]
    commands: tuple["Command", ...] = ()

    @property
    def name(self) -> str:
        """The words to type, such as ``ovn-docker host setup``."""
        return " ".join(self.words)

    @property
    def synopsis(self) -> str:
        """The name and all arguments, in one line."""
        parts = [self.name, *(argument.synopsis for argument in self.arguments)]
        return " ".join([*parts, "COMMAND ..."] if self.commands else parts)

    def all(self) -> Iterator["Command"]:
        """Yield this command and, recursively, the commands below it."""
        yield self
        for command in self.commands:
            yield from command.all()


def tool(parser: argparse.ArgumentParser) -> Command:
    """Return ``ovn-docker`` with the commands of its parser."""
    return _command(parser, ("ovn-docker",), "networks for Docker on many hosts, made by OVN")


def drivers() -> tuple[Command, ...]:
    """Return the programs that serve Docker."""
    daemon = import_module(
        "ovn_docker.daemon.driver_options"
    )  # only here: it looks for directories as it is imported
    modes = (("overlay", Settings, daemon.OVERLAY_HELP), ("underlay", UnderlaySettings, daemon.UNDERLAY_HELP))
    return tuple(
        _command(
            daemon.make_parser(kind, *text), (f"ovn-docker-{mode}-driver",), f"Docker's driver, {mode} mode"
        )
        for mode, kind, text in modes
    )


def _command(parser: argparse.ArgumentParser, words: tuple[str, ...], summary: str) -> Command:
    text, _, examples = ((parser.description or "") + "\n\n" + (parser.epilog or "")).partition("\nexample")
    if not examples:
        text, _, examples = text.partition("examples:")
    found, below = [], []
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            listed = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
            below = [_command(action.choices[name], (*words, name), about) for name, about in listed.items()]
        elif not isinstance(action, argparse._HelpAction):  # noqa: SLF001
            found.append(_argument(action))
    about = text.strip()
    lines = examples.partition(":\n")[2] or examples
    return Command(
        words, summary, "" if about == summary else about, _unindented(lines), tuple(found), tuple(below)
    )


def _argument(action: argparse.Action) -> Argument:
    choices = tuple(str(choice) for choice in action.choices or ())
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    value = metavar or ("|".join(choices) if choices else action.dest.upper().replace("_", "-"))
    options = tuple(action.option_strings)
    text = (action.help or "") % {"default": action.default, "prog": ""} if action.help else ""
    return Argument(
        names=options,
        value="" if options and action.nargs == 0 else value,
        choices=choices,
        help=text,
        required=action.required if options else action.nargs not in ("?", "*", argparse.REMAINDER),
        many=action.nargs in ("*", "+", argparse.REMAINDER),
        optional=bool(options) and action.nargs == "?",
    )


def _unindented(text: str) -> str:
    lines = [line.removeprefix("  ").rstrip() for line in text.strip("\n").splitlines()]
    return "\n".join(lines).strip()
