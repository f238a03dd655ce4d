"""The README says what the code says."""

from dataclasses import fields
from pathlib import Path

import pytest

from ovn_docker import settings
from ovn_docker.options import OPTIONS, Option

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_every_network_option_has_its_row(option: Option) -> None:
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{option.key}="))
    assert f"| {option.help} | {option.default} |" in row


def test_settings_in_the_readme_exist() -> None:
    known = {settings.option(field) for field in fields(settings.Settings)}
    for option in ("--flows-timeout", "--late-flows", "--scope", "--sync"):
        assert option in README
        assert option in known
