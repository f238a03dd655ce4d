"""docs/architecture.md lists every lock and every context variable of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import ovn_docker

ROOT = Path(ovn_docker.__file__).parent
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"}


def called(node: ast.expr | None) -> str:
    """Return the last part of the name of the function that *node* calls; empty if it is not a call."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def assigned(tree: ast.AST, functions: set[str]) -> Iterator[str]:
    """Return the targets of assignments of values that *functions* return."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and called(node.value) in functions:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield ast.unparse(target)


def locks() -> set[str]:
    """``Class.attribute`` of each lock in the source."""
    return {
        f"{node.name}.{target.removeprefix('self.')}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for target in assigned(node, LOCKS)
    }


def section(title: str) -> str:
    (found,) = re.findall(rf"(?s)\n### {title}\n(.*?)\n##", ARCHITECTURE.read_text())
    return str(found)


def test_locks_of_the_documentation_are_those_of_the_source() -> None:
    rows = re.findall(r"(?m)^\| (\d) \| `(\w+\.\w+)` \| .+ \| .+ \|$", section("Locks"))
    assert {lock for _, lock in rows} == locks()
    levels = [int(level) for level, _ in rows]
    assert levels == sorted(levels), "in the order in which they may be taken"


def test_each_lock_is_an_attribute_that_the_table_can_name() -> None:
    """A lock of a module or of a function would escape the comparison."""
    made = [
        node
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and called(node) in LOCKS
    ]
    assert len(made) == len(locks())


def test_context_variables_of_the_documentation_are_those_of_the_source() -> None:
    files = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(assigned(ast.parse(path.read_text()), {"ContextVar"}))
    }
    (item,) = re.findall(r"(?s)\n- Context variables(.*?)\n- ", section("State of the whole process"))
    assert set(re.findall(r"`([\w/]+\.py)`", item)) == files
