"""Pictures of clusters in a real browser: the page finds what it is asked for, and how it all looks.

The screenshots are kept in dist/screenshots, for somebody to look at, or where OVN_DOCKER_SCREENSHOTS says.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ovn_docker.view.graph import picture
from ovn_docker.view.page import page
from ovn_docker.view.svg import svg
from unit.clusters import cloud, cluster

BROWSER = shutil.which("chromium")
SCREENSHOTS = Path(__file__).parents[2] / "dist" / "screenshots"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="chromium is not installed"),
]


def browse(tmp_path: Path, *options: str) -> str:
    """What the browser prints; light colours, without any of the user's settings."""
    quiet = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1600,1000",
    ]
    command = [str(BROWSER), *quiet, f"--user-data-dir={tmp_path}/profile", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize(
    ("asked", "matches"), [("", 300), ("web", None), ("10.10.0.2", None), ("nobody has this name", 0)]
)
def test_search(asked: str, matches: int | None, tmp_path: Path) -> None:
    seen = cluster(3, 300, faults=True)
    file = tmp_path / "cluster.html"
    file.write_text(page(picture(seen)))
    shown = browse(tmp_path, "--dump-dom", f"file://{file}#{asked.replace(' ', '%20')}")
    if matches is None:
        titles = re.findall(r'class="container[^"]*"[^>]*><title>([^<]*)', shown)
        matches = sum(asked in title for title in titles)
        assert 0 < matches < 300
    assert f'role="status">{matches} of 300</span>' in shown
    assert len(re.findall(r'class="container match"', shown)) == matches


@pytest.mark.parametrize("containers", [3, 30, 300])
@pytest.mark.parametrize("kind", ["svg", "html", "cloud.svg"])
def test_a_screenshot(kind: str, containers: int, tmp_path: Path) -> None:
    make = cloud if kind.startswith("cloud") else cluster
    drawn = picture(make(3 if containers < 300 else 8, containers, faults=containers > 3))
    file = tmp_path / f"cluster.{kind}"
    file.write_text(page(drawn) if kind == "html" else svg(drawn))
    kept = Path(os.environ.get("OVN_DOCKER_SCREENSHOTS", SCREENSHOTS))
    kept.mkdir(parents=True, exist_ok=True)
    image = kept / f"{kind}-{containers}.png"
    size = f"--window-size={drawn.width:.0f},{drawn.height:.0f}"
    browse(tmp_path, *([size] if kind.endswith("svg") else []), f"--screenshot={image}", f"file://{file}")
    assert image.read_bytes().startswith(b"\x89PNG")
    assert image.stat().st_size > 20_000, "all of one colour"
