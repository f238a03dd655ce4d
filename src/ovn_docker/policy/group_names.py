"""Names of groups: a container belongs to some, and rules are about them. Pure."""

import re

MOST = 16
"""Largest number of groups of one container."""

RESERVED = ("all", "any", "from", "outside", "to")
"""Words that have another meaning in rules."""

_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,31}")

RULE = f"a name of 1 to 32 letters, digits, '_' and '-', a letter first, other than {', '.join(RESERVED)}"


def is_group(name: str) -> bool:
    """Return whether *name* is valid for a group."""
    return _NAME.fullmatch(name) is not None and name not in RESERVED


def parse(text: str) -> tuple[str, ...]:
    """Return the groups in *text*, separated by commas or spaces, sorted. Raises ValueError: what to give.

    Docker's command line itself splits the options of an endpoint at commas.
    """
    names = [name for name in re.split("[, ]+", text) if name]
    if not names or len(names) > MOST:
        raise ValueError(f"1 to {MOST} groups, such as web or 'web monitored'")
    for name in names:
        if not is_group(name):
            raise ValueError(f"{RULE}; {name[:40]!r} is not one")
    return tuple(sorted(set(names)))


def join(groups: tuple[str, ...]) -> str:
    """Return the text that parse() reads."""
    return ",".join(groups)
