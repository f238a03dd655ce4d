"""README and docs agree with the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from ovn_docker import settings
from ovn_docker.doctor import checks
from ovn_docker.doctor.checks import CHECKS
from ovn_docker.options import OPTIONS, UNDERLAY, Option

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "underlay.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize(
    ("text", "option"),
    [*((README, option) for option in OPTIONS), *((GUIDE, option) for option in UNDERLAY)],
    ids=lambda value: value.key if isinstance(value, Option) else "",
)
def test_every_network_option_has_its_row(text: str, option: Option) -> None:
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{option.key}="))
    assert f"| {option.help} | {option.default} |" in row


def test_settings_in_the_readme_exist() -> None:
    known = {settings.option(field) for field in fields(settings.Settings)}
    for option in ("--flows-timeout", "--late-flows", "--scope", "--sync"):
        assert option in README
        assert option in known


def test_claims_of_the_security_page_name_tests_that_exist() -> None:
    """The page names only modules of tests that exist, and all attacks."""
    named = set(re.findall(r"\[((?:attacks|e2e|functional|unit)/test_\w+)\]", SECURITY))
    attacks = {f"attacks/{path.stem}" for path in (ROOT / "tests/e2e/attacks").glob("test_*.py")}
    assert attacks <= named
    for name in named:
        module = ROOT / "tests" / name.replace("attacks/", "e2e/attacks/")
        assert list(module.parent.glob(f"{module.name}*.py")), name


def test_tests_of_values_that_are_read_exist() -> None:
    """The table of values names functions and classes of tests."""
    table = SECURITY.split("### Values that are read")[1].split("\n## ")[0]
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(?:\w+::)?(test_\w+?)_?\*?`|`(Test\w+)`", table):
        assert re.search(rf"(?:def|class) {name[0] or name[1]}", sources), name


@pytest.mark.parametrize("page", ["architecture", "operations", "troubleshooting"])
def test_number_of_checks_is_that_of_the_table(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert set(re.findall(r"(\d+) checks\b", text)) == {str(len(CHECKS))}
    for total, rest in re.findall(r"(\d+) checks: (.+)", text):
        assert sum(map(int, re.findall(r"\d+", rest))) == int(total)


def test_the_page_has_a_row_for_every_check() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    for check in (*CHECKS, *checks.UNDERLAY):
        depends_on = ", ".join(check.depends_on) or "-"
        assert f"| `{check.name}` | {check.about.rstrip('.')} | {depends_on} |\n" in text
