"""The Debian packages, installed, upgraded and removed in clean Debian trees."""

import shutil
import subprocess
import tomllib
from pathlib import Path

from e2e.lab import wait_for
from e2e.lab.images import REPOSITORY
from packages.conftest import Root, build
from packages.trees import clean as clean_tree

DRIVERS = ("ovn-docker-overlay-driver", "ovn-docker-underlay-driver")
PROGRAMS = ("ovn-docker", *DRIVERS)
PID = "/run/openvswitch/ovn-docker-overlay-driver.pid"
OURS = (
    "find / -xdev \\( -path /proc -o -path /shared -o -path /var/cache/apt \\) -prune "
    "-o -name '*ovn[_-]docker*' -print | sort"
)


def requirements(extra: str = "") -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"][extra] if extra else project["dependencies"])


def check(root: Root, *wanted: str) -> str:
    """Return what the Python packages lack in the versions that they ask of each other."""
    shutil.copy(Path(__file__).with_name("requirements.py"), root.top.parent / "shared")
    return root.out("python3", "-I", "/shared/requirements.py", *wanted)


def start_driver(root: Root) -> str:
    """Start the driver and return its process."""
    root.sh("/usr/share/openvswitch/scripts/ovs-ctl --no-ovs-vswitchd --system-id=one start")
    root.sh("ovn-docker-overlay-driver --detach --pidfile --log-file")
    wait_for(lambda: "answers on" in root.run("ovn-docker", "host", "status").stdout, "the driver")
    return root.out("cat", PID)


def test_packages_are_clean_for_lintian(debs: Path) -> None:
    command = ["lintian", "--fail-on", "error,warning", *map(str, debs.glob("*.deb"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_clean_system_needs_nothing_else(clean: Root) -> None:
    clean.sh("apt-get -q --yes --no-install-recommends install /shared/debs/ovn-docker_*.deb")
    assert check(clean, *requirements()) == ""
    version = clean.out("ovn-docker", "--version")
    assert version.split()[-1] in clean.out("ovn-docker-overlay-driver", "--version")
    for path in (
        *("/usr/share/man/man8/ovn-docker.8.gz", "/usr/share/bash-completion/completions/ovn-docker"),
        *("/usr/share/zsh/vendor-completions/_ovn-docker", "/etc/default/ovn-docker"),
        *("/usr/share/fish/vendor_completions.d/ovn-docker.fish", "/usr/share/doc/ovn-docker/NEWS.gz"),
        "/usr/share/ovn-docker/prometheus/ovn-docker.rules.yml",
        "/usr/share/ovn-docker/grafana/ovn-docker.json",
    ):
        clean.out("test", "-e", path)
    assert clean.out("sh", "-c", "grep -rl /opt/ /lib/systemd/system/ovn-docker-* || true") == ""
    enabled = clean.out("sh", "-c", "cd /etc/systemd/system; find -name '*ovn-docker*' | sort").split()
    assert enabled == [
        "./multi-user.target.wants/ovn-docker-overlay.service",
        "./sockets.target.wants/ovn-docker-overlay.socket",
    ]


def test_underlay_package_takes_the_place_of_the_overlay_mode(clean: Root) -> None:
    clean.sh("apt-get -q --yes --no-install-recommends install /shared/debs/*.deb")
    assert check(clean, *requirements(), *requirements("underlay")) == ""
    clean.out("python3", "-I", "-c", "import sys; sys.path[:0] = sys.argv[1:]; import openstack",
              "/usr/lib/ovn-docker", "/usr/lib/ovn-docker-underlay")  # fmt: skip
    clean.out("ovn-docker-underlay-driver", "--help")
    enabled = clean.out("sh", "-c", "cd /etc/systemd/system; find -name '*ovn-docker*' | sort").split()
    assert enabled == [
        "./multi-user.target.wants/ovn-docker-underlay.service",
        "./sockets.target.wants/ovn-docker-underlay.socket",
    ]
    clean.sh("apt-get -q --yes install /shared/later/*.deb")
    assert (
        clean.out("sh", "-c", "cd /etc/systemd/system; find -name '*ovn-docker*' | sort").split() == enabled
    )


def test_purge_leaves_nothing(clean: Root) -> None:
    clean.sh("apt-get -q --yes --no-install-recommends install /shared/debs/*.deb")
    pid = start_driver(clean)
    clean.out("ovn-docker", "--help")
    clean.sh("apt-get -q --yes remove 'ovn-docker*'")
    assert clean.run("test", "-e", f"/proc/{pid}").returncode == 1
    assert clean.run("nft", "list", "tables").stdout == ""
    assert "/etc/default/ovn-docker" in clean.sh(OURS)
    clean.sh("apt-get -q --yes purge 'ovn-docker*'")
    assert clean.sh(OURS) == ""


def test_driver_runs_on_during_an_upgrade(clean: Root) -> None:
    """Without systemd: nothing stops or starts it, and the user is told how to."""
    clean.sh("apt-get -q --yes --no-install-recommends install /shared/debs/ovn-docker_*.deb")
    clean.sh("echo '# mine' >>/etc/default/ovn-docker; chmod 600 /etc/default/ovn-docker")
    pid = start_driver(clean)
    done = clean.run("sh", "-c", "apt-get -q --yes install /shared/later/ovn-docker_*.deb")
    assert done.returncode == 0, done
    assert "the driver still runs version 1:0." in done.stdout + done.stderr
    assert "answers on" in clean.run("ovn-docker", "host", "status").stdout
    assert clean.out("cat", PID) == pid
    assert clean.out("ovn-docker", "--version").endswith(" 99")
    clean.sh("ovs-appctl -t ovn-docker-overlay-driver exit")
    clean.sh(f"while [ -e /proc/{pid} ]; do sleep 0.1; done; ovn-docker-overlay-driver --detach --pidfile")
    assert " 99" in clean.out("ovs-appctl", "-t", "ovn-docker-overlay-driver", "version")
    assert clean.out("tail", "-n1", "/etc/default/ovn-docker") == "# mine"
    assert clean.out("stat", "-c", "%a", "/etc/default/ovn-docker") == "600"


def test_package_replaces_that_of_the_distribution(clean: Root) -> None:
    """Debian's package of this name has OVN's own drivers; apt must never go back to it."""
    clean.sh("apt-get -q --yes --no-install-recommends install ovn-docker")
    clean.sh("apt-get -q --yes --no-install-recommends install /shared/debs/*.deb")
    assert check(clean, *requirements()) == ""
    policy = clean.out("apt-cache", "policy", "ovn-docker")
    installed, candidate = (line.split()[1] for line in policy.splitlines()[1:3])
    assert installed == candidate
    assert installed.startswith("1:0.")
    assert "ovn-docker" not in clean.sh("apt-get -q --yes --simulate dist-upgrade | grep ^Inst || true")


def test_two_builds_are_equal(suite: str, debs: Path, tmp_path: Path) -> None:
    build(suite, tmp_path)
    for package in debs.glob("*.deb"):
        assert (tmp_path / package.name).read_bytes() == package.read_bytes(), package.name


def test_the_tree_is_clean(suite: str) -> None:
    assert not list(clean_tree(suite).glob("usr/bin/python3*"))
