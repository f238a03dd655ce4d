"""Settings from the command line and the environment."""

from dataclasses import fields
from pathlib import Path

import pytest

from ovn_docker import settings
from ovn_docker.errors import BadRequest
from ovn_docker.host.environment import environment
from ovn_docker.settings import Settings


def test_defaults_hold_without_settings() -> None:
    assert settings.read(Settings, {}, {}) == Settings()


def test_command_line_takes_precedence_over_the_environment() -> None:
    variables = {"OVN_DOCKER_LATE_FLOWS": "fail", "OVN_DOCKER_SCOPE": "global"}
    read = settings.read(Settings, {"late_flows": "warn", "scope": None}, variables)
    assert (read.late_flows, read.scope) == ("warn", "global")


def test_the_tool_knows_the_variables_of_the_drivers_unit(tmp_path: Path) -> None:
    file = tmp_path / "ovn-docker"
    file.write_text('# OS_REGION_NAME=one\nexport OS_USERNAME=demo\nOS_PASSWORD="a=b"\n')
    assert environment({"OS_USERNAME": "me"}, [file]) == {"OS_USERNAME": "me", "OS_PASSWORD": "a=b"}
    later = tmp_path / "later"
    later.write_text("OS_PASSWORD=c\n")
    assert environment({}, [file, later]) == {"OS_USERNAME": "demo", "OS_PASSWORD": "c"}
    assert environment({"OS_USERNAME": "me"}, [tmp_path / "nosuch"]) == {"OS_USERNAME": "me"}


def test_empty_variable_is_ignored() -> None:
    assert settings.read(Settings, {}, {"OVN_DOCKER_SCOPE": ""}) == Settings()


def test_each_setting_has_an_option_and_a_variable_of_the_same_name() -> None:
    names = {(settings.option(field), settings.variable(field)) for field in fields(Settings)}
    assert ("--request-timeout", "OVN_DOCKER_REQUEST_TIMEOUT") in names
    assert len(names) == len(fields(Settings))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("socket", "/run/x.sock", Path("/run/x.sock")),
        ("scope", "global", "global"),
        ("db", "tcp:127.0.0.1:6640", "tcp:127.0.0.1:6640"),
        ("request_timeout", "0.5", 0.5),
        ("flows_timeout", "30", 30.0),
        ("sweep_interval", "3600", 3600.0),
        ("ovn_rundir", "/var/run/other", Path("/var/run/other")),
    ],
)
def test_text_of_a_setting_is_parsed(name: str, text: str, value: object) -> None:
    assert getattr(settings.read(Settings, {name: text}, {}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scope", "swarm", "--scope='swarm' is not valid: give one of local, global, auto"),
        ("late_flows", "", "--late-flows='' is not valid: give one of warn, fail"),
        ("request_timeout", "soon", "--request-timeout='soon' is not valid: give seconds, from 0.1 to 3600"),
        ("request_timeout", "0", "--request-timeout='0' is not valid: give seconds, from 0.1 to 3600"),
        ("flows_timeout", "-1", "--flows-timeout='-1' is not valid: give seconds, from 0.1 to 3600"),
        ("flows_timeout", "nan", "--flows-timeout='nan' is not valid: give seconds, from 0.1 to 3600"),
        ("sweep_interval", "inf", "--sweep-interval='inf' is not valid: give seconds, from 0.1 to 3600"),
        ("socket", "x.sock", "--socket='x.sock' is not valid: give a path that begins with /"),
    ],
)
def test_invalid_value_is_refused_with_the_valid_ones(name: str, text: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        settings.read(Settings, {name: text}, {})
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "text", ["9476", "localhost:9476", "127.0.0.1:0", "127.0.0.1:65536", "::1:9476", "[::1]"]
)
def test_metrics_are_at_an_address_and_a_port(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        settings.read(Settings, {"metrics": text}, {})
    assert str(refused.value).startswith(
        f"--metrics={text!r} is not valid: give an address and a port, such as 127.0.0.1:9476"
    )


def test_error_of_an_invalid_variable_has_its_name() -> None:
    with pytest.raises(BadRequest, match="OVN_DOCKER_SCOPE='swarm' is not valid"):
        settings.read(Settings, {}, {"OVN_DOCKER_SCOPE": "swarm"})


def test_tls_needs_all_three_files_or_none_of_them() -> None:
    files = {"private_key": "/k", "certificate": "/c", "ca_cert": "/a"}
    assert settings.read(Settings, files, {}).ca_cert == "/a"
    for name in files:
        with pytest.raises(BadRequest, match="--private-key, --certificate and --ca-cert"):
            settings.read(Settings, files | {name: None}, {})
