"""The README says what the code says."""

from dataclasses import fields
from pathlib import Path

import pytest

from ovn_docker import settings
from ovn_docker.options import OPTIONS, UNDERLAY, Option

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "underlay.md").read_text()


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
