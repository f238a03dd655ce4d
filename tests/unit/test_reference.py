"""The reference, manual pages and completion agree with the programs; each shell completes with them."""

import os
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

import reference
from ovn_docker import settings
from ovn_docker.cli.main import COMMANDS, make_parser
from ovn_docker.installation import completion
from ovn_docker.installation.manual_pages import manual
from ovn_docker.installation.usage import drivers, tool
from ovn_docker.metrics import METRICS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
TOOL = tool(make_parser(COMMANDS))
PROGRAMS = (TOOL, *drivers())


def missing(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


def test_the_reference_is_not_stale() -> None:
    assert REFERENCE.read_text() == reference.markdown(), "write it anew with: make docs"


def test_the_reference_has_every_command_setting_and_metric() -> None:
    text = REFERENCE.read_text()
    for command in TOOL.all():
        assert command.commands or f"### `{command.name}`" in text
    for kind in (settings.Settings, settings.UnderlaySettings):
        assert all(f"`{settings.variable(field)}`" in text for field in fields(kind))
    assert all(f"| `{metric.name}` | {metric.kind} |" in text for metric in METRICS)


def test_a_synopsis_has_the_forms_of_an_option() -> None:
    synopses = {command.name: command.synopsis for command in TOOL.all()}
    assert " [--rbac|--no-rbac] " in synopses["ovn-docker central start"]
    assert " [--tls [DIR]] " in synopses["ovn-docker host setup"]
    assert " [--output FILE] " in synopses["ovn-docker graph"]
    assert synopses["ovn-docker tcpdump"].endswith(" [--write FILE] [--ssh] CONTAINER [ARGUMENT...]")
    arguments = [argument for command in TOOL.all() for argument in command.arguments]
    assert all(argument.help for argument in arguments)


def test_every_command_has_a_description_and_an_example() -> None:
    found = list(TOOL.all())
    assert {command.words[1] for command in found if len(command.words) > 1} == COMMANDS.keys()
    for command in found:
        if not command.commands:
            assert command.text, command.name
            assert any(line.startswith(command.name) for line in command.examples.splitlines()), command.name


@missing("mandoc")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_manual_pages_are_correct(program: object, tmp_path: Path) -> None:
    page = tmp_path / "page.8"
    page.write_text(manual(program))  # type: ignore[arg-type]
    said = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False
    )
    assert [line for line in said.stdout.splitlines() if "missing date" not in line] == []
    shown = subprocess.run(["mandoc", "-T", "utf8", page], capture_output=True, text=True, check=True).stdout
    assert "3: something does not run." in " ".join(shown.split())


LINES = [
    ("ovn-docker gr", "graph"),
    ("ovn-docker host se", "setup"),
    ("ovn-docker host setup --encap-type v", "vxlan"),
    ("ovn-docker graph --form", "--format"),
    ("ovn-docker ls end", "endpoints"),
    ("ovn-docker trace we", "web"),
    ("ovn-docker tcpdump -c 2 we", "web"),
    ("ovn-docker inspect we", "web"),
    ("ovn-docker inspect wo", "work"),
    ("ovn-docker network rm wo", "work"),
    ("ovn-docker network wait sh", "shop"),
    ("ovn-docker trace --network sh", "shop"),
    ("ovn-docker-overlay-driver --flows-t", "--flows-timeout"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a Docker that has two containers and two networks."""
    docker = tmp_path / "docker"
    docker.write_text(
        "#!/bin/sh\ncase $1 in ps) printf 'web\\ndb\\n' ;; *) printf 'shop\\nwork\\n' ;; esac\n"
    )
    docker.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def program_of(line: str) -> object:
    return next(program for program in PROGRAMS if program.name == line.split(maxsplit=1)[0])


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_bash_completes_words(line: str, wanted: str, environment: dict[str, str]) -> None:
    words = line.split(" ")
    script = completion.bash(program_of(line)) + "\n".join(  # type: ignore[arg-type]
        [
            f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}",
            f"_{words[0].replace('-', '_')}",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
    )
    said = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert (said.stdout.split(), said.stderr) == ([wanted], "")


@missing("fish")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_fish_completes_words(line: str, wanted: str, environment: dict[str, str]) -> None:
    script = completion.fish(program_of(line)) + f"complete -C '{line}'\n"  # type: ignore[arg-type]
    said = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert [found.split("\t")[0] for found in said.stdout.splitlines()] == [wanted]


@missing("zsh")
@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_zsh_completes_words(line: str, wanted: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Check the words that the function offers; the shell selects those that fit."""
    words = line.split(" ")
    function = tmp_path / "function"
    function.write_text(completion.zsh(program_of(line)))  # type: ignore[arg-type]
    script = "\n".join(
        [
            "compadd() { shift; print -l -- $@ }",
            "_describe() { print -l -- ${(@P)2} }",
            "_message() { : }; _files() { : }",
            f"words=({' '.join(words)}) CURRENT={len(words)}",
            f"complete_it() {{ source {function} }}; complete_it",
        ]
    )
    said = subprocess.run(
        ["zsh", "-f", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert said.stderr == ""
    offered = [found.partition(":")[0] for found in said.stdout.splitlines()]
    assert wanted in offered
    assert offered.count(wanted) == 1
