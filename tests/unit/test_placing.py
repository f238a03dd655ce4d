"""`ovn-docker install-files`: the files of the list are placed and removed, and nothing else."""

import os
import stat
from pathlib import Path

import pytest

from ovn_docker.cli.main import main
from ovn_docker.installation import placing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the command is root's")

REPOSITORY = Path(__file__).parents[2]
LIST = [
    line.split()
    for line in (REPOSITORY / "packaging/files").read_text().splitlines()
    if not line.startswith("#")
]
SETTINGS = "etc/default/ovn-docker"


def install(tree: Path, *options: str) -> int:
    common = ("--root", str(tree), "--programs", "/opt/mine/bin", "--settings", f"/{SETTINGS}")
    return main(["install-files", *common, *options])


def found(tree: Path) -> dict[str, str]:
    return {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}


def test_list_has_all_units_and_its_files_exist() -> None:
    sources = {source for source, _, _ in LIST}
    packaging = REPOSITORY / "packaging"
    assert {f"systemd/{path.name}" for path in (packaging / "systemd").iterdir()} <= sources
    made = ("manual/", "bash/", "zsh/", "fish/")
    assert all(source.startswith(made) or (packaging / source).is_file() for source in sources)
    assert {package for _, package, _ in LIST} == {"ovn-docker", "ovn-docker-underlay"}


def test_every_file_of_the_list_is_placed_whatever_the_umask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0)
    try:
        assert install(tmp_path, "--dry-run") == 0
        assert found(tmp_path) == {}
        assert install(tmp_path) == 0
    finally:
        os.umask(before)
    replacements = {"UNITS": "etc/systemd/system", "SHARE": "usr/local/share", "SETTINGS": SETTINGS}
    wanted = set()
    for _, _, destination in LIST:
        base, slash, rest = destination.partition("/")
        wanted.add(f"{replacements[base]}{slash}{rest}")
    assert found(tmp_path).keys() == wanted
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    unit = (tmp_path / "etc/systemd/system/ovn-docker-overlay.service").read_text()
    assert "ExecStart=/opt/mine/bin/ovn-docker-overlay-driver " in unit
    assert not any("/opt/ovn-docker/bin" in text for text in found(tmp_path).values())
    said = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("would ") for line in said[: len(said) // 2]] == said[len(said) // 2 :]


def test_second_time_changes_nothing_and_mends_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path)
    placed = found(tmp_path)
    capsys.readouterr()
    assert install(tmp_path) == 0
    assert capsys.readouterr().out == "nothing to change\n"
    page = tmp_path / "usr/local/share/man/man8/ovn-docker.8"
    page.write_text("of an earlier version")
    page.with_name("ovn-docker.8.new").write_text("of a run that was killed")
    assert install(tmp_path) == 0
    assert capsys.readouterr().out.startswith(f"write {page}\n")
    assert found(tmp_path) == placed


def test_settings_of_the_administrator_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text("OVN_DOCKER_METRICS=127.0.0.1:1\n")
    settings.chmod(0o600)
    install(tmp_path)
    assert install(tmp_path, "--remove") == 0
    assert found(tmp_path) == {SETTINGS: "OVN_DOCKER_METRICS=127.0.0.1:1\n"}
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert "stays: it has been changed" in capsys.readouterr().err


def test_remove_leaves_files_of_others(tmp_path: Path) -> None:
    install(tmp_path)
    theirs = tmp_path / "usr/local/share/ovn-docker/theirs"
    theirs.write_text("theirs")
    assert install(tmp_path, "--remove") == 0
    assert found(tmp_path) == {"usr/local/share/ovn-docker/theirs": "theirs"}
    assert not (tmp_path / "usr/local/share/ovn-docker/grafana").exists()
    assert install(tmp_path, "--remove") == 0


@pytest.mark.parametrize("action", [(), ("--remove",)])
def test_nothing_is_changed_if_a_place_is_taken(
    tmp_path: Path, action: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A link, through which root would write another file, or a directory."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text("theirs")
    (units / "ovn-docker-live.service").symlink_to(target)
    assert install(tmp_path, *action) == 1
    assert "ovn-docker-live.service is not a file: move it away" in capsys.readouterr().err
    assert list(found(tmp_path)) == ["target", "etc/systemd/system/ovn-docker-live.service"]
    assert target.read_text() == "theirs"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--programs", "/root/.local/bin"), "PIPX_HOME=/opt/pipx"),
        (("--programs", "/home/alice/bin"), "a user's own directory"),
        (("--programs", "/opt/a b"), "without spaces"),
        (("--programs", "/opt/%h"), "without spaces"),
        (("--programs", "bin"), "absolute path"),
        (("--prefix", "usr"), "--prefix 'usr' is not an absolute path"),
        (("--units", "units"), "--units 'units' is not an absolute path"),
        (("--settings", "settings"), "--settings 'settings' is not an absolute path"),
    ],
)
def test_bad_directory_is_refused(
    tmp_path: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(tmp_path, *options) == 2
    assert said in capsys.readouterr().err
    assert found(tmp_path) == {}


def test_package_of_a_distribution_has_no_files_to_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placing, "_PACKAGED", tmp_path / "absent")
    monkeypatch.setattr(placing, "_SOURCES", tmp_path / "absent")
    assert install(tmp_path) == 1
    assert "a package of the distribution has placed them" in capsys.readouterr().err
