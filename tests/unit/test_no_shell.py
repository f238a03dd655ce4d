"""Programs are run without a shell, and foreign text is never run as Python."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovn_docker

SOURCES = sorted(Path(ovn_docker.__file__).parent.rglob("*.py"))
RUNNERS = {"run", "Popen", "call", "check_call", "check_output"}
FORBIDDEN = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("asyncio.create_subprocess_shell", "eval", "exec", "compile"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "yaml.load"),
}
SHELLS = {"sh", "bash", "dash", "/bin/sh", "/bin/bash", "ssh", "su", "sudo", "eval", "xargs"}


def offences(source: str) -> Iterator[str]:
    """Yield the calls by which a shell, or Python itself, would interpret a value."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Tuple, ast.List)) and node.elts:
            first = node.elts[0]
            rest = [one.value for one in node.elts[1:] if isinstance(one, ast.Constant)]
            if isinstance(first, ast.Constant) and first.value in SHELLS and "-c" in rest:
                yield f"line {node.lineno}: a shell's -c"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN:
            yield f"line {node.lineno}: {name}()"
        if any(keyword.arg == "shell" for keyword in node.keywords):
            yield f"line {node.lineno}: shell="
        if name in {f"subprocess.{runner}" for runner in RUNNERS} and (
            not node.args or isinstance(node.args[0], (ast.Constant, ast.JoinedStr))
        ):
            yield f"line {node.lineno}: a command that is a string"


EXCEPTED = {"central_services.py": "a shell's -c"}
"""Exceptions by file: the file of options of ovn-ctl(8) is a shell script; our words are constants."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_programs_are_called_with_lists_of_arguments(path: Path) -> None:
    excepted = EXCEPTED.get(path.name, "no exception")
    assert [one for one in offences(path.read_text()) if not one.endswith(excepted)] == []


@pytest.mark.parametrize(
    "offence",
    [
        "import os; os.system(f'ip link del {name}')",
        "subprocess.run(f'ip link del {name}', shell=True)",
        "subprocess.run(f'ip link del {name}')",
        "subprocess.run(['sh', '-c', name])",
        "run(('bash', '-c', f'ip link del {name}'))",
        "eval(name)",
        "pickle.loads(data)",
    ],
)
def test_calls_of_an_interpreter_are_found(offence: str) -> None:
    assert list(offences(offence))
