"""The packages of a release are pinned: every dependency has hashes."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name(requirement: str) -> str:
    """Return the name of a package, normalized (PEP 503)."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize(
    ("lock", "extra"), [("requirements.txt", []), ("requirements-underlay.txt", ["underlay"])]
)
def test_every_dependency_is_pinned_with_hashes(lock: str, extra: list[str]) -> None:
    text = (ROOT / "packaging" / lock).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.match(r"[a-z0-9-]+==[0-9][^ ]* .*--hash=sha256:[0-9a-f]{64}", line), line
    wanted = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][one] for one in extra)]
    flat = [one for many in wanted for one in ([many] if isinstance(many, str) else many)]
    assert {name(one) for one in flat} <= {name(line) for line in lines}, "write it anew with: make lock"
