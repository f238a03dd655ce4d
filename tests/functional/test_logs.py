"""The log of a real driver: one line for each call, for people or for programs."""

import json
import re
import signal
from pathlib import Path

import pytest

from functional.hosts import C1, NET
from functional.test_daemon import Driver, call, driver  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("network_namespace")


def log_of(driver: Driver, *options: str) -> list[str]:  # noqa: F811
    """Return the lines that the driver logs during three calls, one of which contains a password."""
    process = driver.start(*options, "-v", "console:info", "syslog:off", "file:off")
    generic = {"com.docker.network.generic": {"password": "geheim"}}
    call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID=NET, Options=generic)
    call(driver.socket, "NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=C1)
    call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID=NET, IPv4Data=[{"Pool": "10.1.0.0/24"}])
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    return [line for line in log.splitlines() if "Plugin.Activate" not in line]


def test_json_is_one_object_a_line_with_every_part_of_a_call(driver: Driver) -> None:  # noqa: F811
    log = log_of(driver, "--log-format=json")
    assert "geheim" not in "\n".join(log)
    lines = [json.loads(line) for line in log]
    assert all(re.fullmatch(r"[-0-9]{10}T[:0-9]{8}\.[0-9]{3}Z", line["time"]) for line in lines)
    refused, asked, failed = (line for line in lines if "method" in line)
    assert {key: refused[key] for key in ("level", "module", "method", "network", "outcome")} == {
        "level": "warning",
        "module": "plugin",
        "method": "NetworkDriver.CreateNetwork",
        "network": NET[:12],
        "outcome": "bad_request",
    }
    assert refused["error"].startswith("unknown option 'password'")
    assert (asked["outcome"], asked["endpoint"], asked["level"]) == ("ok", C1[:12], "info")
    assert "error" not in asked
    assert failed["outcome"] == "unavailable"
    assert all(line["milliseconds"] >= 0 for line in (refused, asked, failed))
    assert len({line["request"] for line in (refused, asked, failed)}) == 3


def test_text_has_the_format_of_the_daemons_of_ovs(driver: Driver) -> None:  # noqa: F811
    log = log_of(driver)
    assert "geheim" not in "\n".join(log)
    line = next(line for line in log if "EndpointOperInfo" in line)
    assert re.fullmatch(
        r"[-0-9]{10}T[:0-9]{8}Z \| +[0-9]+ +\| +plugin +\(call-[0-9]+\) +\| INFO \| "
        r"NetworkDriver\.EndpointOperInfo "
        rf"request=[0-9a-f]{{8}} network={NET[:12]} endpoint={C1[:12]} ok [0-9.]+ ms",
        line,
    )


def test_time_stamps_of_the_log_file_are_valid(driver: Driver, tmp_path: Path) -> None:  # noqa: F811
    """The ovs package's own pattern writes 30 ms after the second as ``.30.Z``."""
    file = tmp_path / "driver.log"
    process = driver.start(f"--log-file={file}", "-v", "console:off", "syslog:off", "file:dbg")
    call(driver.socket, "NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=C1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    stamps = [line.partition("|")[0].strip() for line in file.read_text().splitlines()]
    assert stamps
    for stamp in stamps:
        assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}\.[0-9]{6}Z", stamp)
