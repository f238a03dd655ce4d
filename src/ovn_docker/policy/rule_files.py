"""Rules in YAML, as ``ovn-docker policy set`` reads them, and a JSON schema of them. Pure.

Scalars are read as they are written, so that ``no`` is a group of that name. Aliases are refused, as a small
text with aliases can be a large one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ovn_docker.policy import group_names
from ovn_docker.policy.language import (
    MOST_RULES,
    MOST_WORDS,
    PROTOCOLS,
    Action,
    Place,
    PolicyRule,
    ends,
    services,
)

LARGEST = 65536
"""Largest size of a text in bytes."""


_DEEPEST = 4
"""Levels of lists and mappings in valid rules: the time in which more are read grows with their square."""


class PolicyInvalid(ValueError):
    """A text without valid rules: *why*, and the *line* from 1, or 0 for the text as a whole."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}" if line else why)


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule, and the line of the text that it begins on."""

    rule: PolicyRule
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: {self.rule}"


_ACTIONS = {
    Action.ALLOW: "services that are allowed",
    Action.DROP: "services whose packets are dropped",
    Action.REJECT: "services whose packets are answered with a TCP reset or an ICMP error",
}
_ENDS = {
    "from": "who sends the first packet; anybody if it is left out",
    "to": "who receives the first packet; anybody if it is left out",
}
_KEYS: dict[str, str] = {**{str(action): text for action, text in _ACTIONS.items()}, **_ENDS}
_EXAMPLE = "`- allow: tcp/80`, with `from:` and `to:`"


def parse(text: str) -> tuple[WrittenRule, ...]:
    """Return the rules in a text. Raises PolicyInvalid."""
    if len(text.encode(errors="replace")) > LARGEST:
        raise PolicyInvalid(0, f"the rules have more than {LARGEST} bytes: give fewer, or larger groups")
    try:
        root = _compose(text)
    except PolicyInvalid:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PolicyInvalid(mark.line + 1 if mark else 0, f"not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PolicyInvalid(0, f"not valid YAML: {' '.join(str(error).split())[:100]}") from None
    if root is None:
        raise PolicyInvalid(0, "no rules: write `rules:` and below it, for example, " + _EXAMPLE)
    document = _mapping(root, "the rules of a network", {"rules": "the rules, in order"})
    rules = document.get("rules")
    if rules is None:
        raise PolicyInvalid(_line(root), "key rules is missing: write `rules:` and below it " + _EXAMPLE)
    if not isinstance(rules, yaml.SequenceNode):
        raise PolicyInvalid(_line(rules), f"rules must be a list: begin each rule with `-`, as in {_EXAMPLE}")
    if len(rules.value) > MOST_RULES:
        raise PolicyInvalid(_line(rules), f"{len(rules.value)} rules: give at most {MOST_RULES}")
    return tuple(_rule(node) for node in rules.value)


def _compose(text: str) -> Any:
    """Return the nodes of a text, after a look at its events, which takes no recursion and can end early."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise PolicyInvalid(event.start_mark.line + 1, f"more than {_DEEPEST} levels: see {_EXAMPLE}")
        if isinstance(event, yaml.AliasEvent):
            raise PolicyInvalid(event.start_mark.line + 1, f"alias *{event.anchor}: write it out instead")
    return yaml.compose(text, yaml.SafeLoader)


def _rule(node: Any) -> WrittenRule:
    fields = _mapping(node, "a rule", _KEYS)
    actions = [action for action in Action if action in fields]
    if len(actions) != 1:
        given = f"{' and '.join(actions)} in one rule" if actions else "neither allow, drop nor reject"
        raise PolicyInvalid(_line(node), f"a rule has {given}: write one of them, such as {_EXAMPLE}")
    (action,) = actions
    values = {key: _words(key, value) for key, value in fields.items()}
    found: dict[str, Any] = {}
    for key, (text, line) in values.items():
        try:
            found[key] = services(text) if key == action else ends(text)
        except ValueError as error:
            raise PolicyInvalid(line, f"{key}: {error}") from None
    rule = PolicyRule(action, found[action], found.get("from", ()), found.get("to", ()))
    return WrittenRule(rule, _line(node))


def _words(key: str, node: Any) -> tuple[str, int]:
    """Return the words of a scalar or a list of scalars, with spaces, and their line."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for one in nodes:
        if not isinstance(one, yaml.ScalarNode) or not one.value.isprintable():
            raise PolicyInvalid(_line(one), f"{key} must be a word, or a list of words: [web, db]")
    return " ".join(one.value for one in nodes), _line(node)


def _mapping(node: Any, what: str, known: dict[str, str]) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        keys = ", ".join(known)
        raise PolicyInvalid(_line(node), f"{what} must be a mapping with the keys {keys}, such as {_EXAMPLE}")
    fields: dict[str, Any] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        if name not in known:
            raise PolicyInvalid(_line(key), f"unknown key {name[:40]!r}: known are {', '.join(known)}")
        if name in fields:
            raise PolicyInvalid(_line(key), f"key {name} is there twice: leave one out")
        fields[name] = value
    return fields


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def write(rules: tuple[PolicyRule, ...]) -> str:
    """Return a text that parse() reads."""
    return "".join(_lines(rules)) if rules else "rules: []\n"


def _lines(rules: tuple[PolicyRule, ...]) -> Iterator[str]:
    yield "rules:\n"
    for rule in rules:
        yield f"  - {rule.action}: {_flow(rule.services) or 'any'}\n"
        for key, of_end in (("from", rule.sources), ("to", rule.targets)):
            if of_end:
                yield f"    {key}: {_flow(of_end)}\n"


def _flow(words: tuple[object, ...]) -> str:
    shown = [f'"{word}"' if ":" in str(word) else str(word) for word in words]
    return f"[{', '.join(shown)}]" if len(shown) > 1 else "".join(shown)


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the rules, for editors."""
    ports = "(/[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?)?"
    service = f"^(any|icmp|({'|'.join(one for one in PROTOCOLS if one != 'icmp')}){ports})$"
    end = {
        "anyOf": [
            {"enum": [str(place) for place in Place]},
            {"pattern": "^[A-Za-z][A-Za-z0-9_-]{0,31}$", "description": group_names.RULE},
            {"pattern": r"^[0-9a-fA-F.:]+(/\d{1,3})?$", "description": "an address or a subnet"},
        ]
    }

    def one_or_several(word: dict[str, Any], description: str) -> dict[str, Any]:
        several = {"type": "array", "minItems": 1, "maxItems": MOST_WORDS, "items": word}
        return {"description": description, "anyOf": [{"type": "string"}, several]}

    properties = {str(key): one_or_several({"pattern": service}, text) for key, text in _ACTIONS.items()}
    properties |= {key: one_or_several(end, text) for key, text in _ENDS.items()}
    rule = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "oneOf": [{"required": [str(action)]} for action in Action],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rules of a network of ovn-docker",
        "type": "object",
        "properties": {"rules": {"type": "array", "maxItems": MOST_RULES, "items": rule}},
        "required": ["rules"],
        "additionalProperties": False,
    }
