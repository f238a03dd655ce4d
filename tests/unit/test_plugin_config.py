"""The configuration of Docker's managed plugin has the settings and mounts that the driver needs."""

import json
from dataclasses import fields
from pathlib import Path

import plugin
from ovn_docker import settings
from ovn_docker.host.places import OVN, OVS
from ovn_docker.settings import DOCKER, SOCKET, Settings


def test_every_setting_that_is_no_path_can_be_set() -> None:
    given = {one["name"]: one for one in plugin.config()["env"]}
    wanted = [setting for setting in fields(Settings) if setting.name not in plugin.FIXED]
    assert list(given) == [settings.variable(setting) for setting in wanted]
    assert {setting.name for setting in fields(Settings)} >= plugin.FIXED
    assert all(one["settable"] == ["value"] for one in given.values())


def test_defaults_of_the_plugin_are_valid_and_fit_swarm() -> None:
    variables = {one["name"]: one["value"] for one in plugin.config()["env"]}
    found = settings.read(Settings, {}, variables)
    assert (found.scope, found.sync) == ("global", "off")
    assert settings.read(Settings, {}, {}) == settings.read(
        Settings, {"scope": "auto", "sync": "on"}, variables
    )


def test_places_of_the_driver_lead_to_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    plugin.write(tmp_path)
    config, root = json.loads((tmp_path / "config.json").read_text()), tmp_path / "rootfs"
    assert config == plugin.config()
    mounted = {one["destination"]: one["source"] for one in config["mounts"]}
    for directory in mounted:
        assert (root / directory[1:]).is_dir()
    assert (root / "var/run").readlink() == Path("/run")
    for place in (OVS, OVN, DOCKER):
        link = root / "run" / place.name
        target = str(link.readlink())
        assert target.replace("/host/run", mounted["/host/run"]) == f"/run/{place.name}"
    assert config["interface"]["socket"] == SOCKET.name
    assert (root / SOCKET.parent.relative_to("/")).is_dir()
