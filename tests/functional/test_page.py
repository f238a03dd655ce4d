"""Pictures of clusters in a real browser: search in the page, and screenshots.

The screenshots, which people look at, are in dist/screenshots, or in the directory OVN_DOCKER_SCREENSHOTS.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ovn_docker.draw.layout import picture
from ovn_docker.draw.page import page
from ovn_docker.draw.svg import svg
from unit.clusters import cloud, cluster

BROWSER = shutil.which("chromium")
SCREENSHOTS = Path(__file__).parents[2] / "dist" / "screenshots"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="chromium is not installed"),
]


def browse(tmp_path: Path, *options: str) -> str:
    """Output of the browser; light colours, without any of the user's settings."""
    return run_browser(tmp_path, *options).stdout


def run_browser(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    quiet = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1600,1000",
    ]
    command = [str(BROWSER), *quiet, f"--user-data-dir={tmp_path}/profile", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("asked", "matches"), [("", 300), ("web", None), ("10.10.0.2", None), ("nobody has this name", 0)]
)
def test_search_marks_the_matches(asked: str, matches: int | None, tmp_path: Path) -> None:
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


def test_policy_admits_the_script_and_styles_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "cluster.html"
    file.write_text(page(picture(cluster(3, 30))))
    shown = run_browser(tmp_path, "--enable-logging=stderr", "--dump-dom", f"file://{file}#")
    assert 'role="status">30 of 30</span>' in shown.stdout
    assert "Content Security Policy" not in shown.stderr


INJECTED = {
    "script": '<script>document.body.dataset.ran = "yes"</script>',
    "script of an SVG": '<svg><script>document.body.dataset.ran = "yes"</script></svg>',
    "script in a file": '<script src="evil.js"></script>',
    "event handler": '<img src="nosuch" onerror="document.body.dataset.ran = `yes`">',
    "event handler of an SVG": '<svg onload="document.body.dataset.ran = `yes`"></svg>',
    "frame": """<iframe srcdoc="<script>parent.document.body.dataset.ran = 'yes'</script>"></iframe>""",
    "base": '<base href="http://192.0.2.1/">',
    "style": "<style>main { display: none }</style>",
    "style attribute": '<p style="display: none">',
}
"""Markup that a name could add to the page if it were not escaped."""


@pytest.mark.parametrize("kind", INJECTED)
def test_policy_refuses_injected_scripts(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.html"
    html = page(picture(cluster(3, 30)))
    assert html.count("</main>") == 1
    file.write_text(html.replace("</main>", f"{INJECTED[kind]}</main>"))
    (tmp_path / "evil.js").write_text('document.body.dataset.ran = "yes"')
    shown = run_browser(
        tmp_path, "--enable-logging=stderr", "--virtual-time-budget=1000", "--dump-dom", f"file://{file}#"
    )
    assert 'role="status">30 of 30</span>' in shown.stdout  # our own script runs all the same
    assert "<body data-ran" not in shown.stdout
    assert "Content Security Policy" in shown.stderr


@pytest.mark.parametrize("containers", [3, 30, 300])
@pytest.mark.parametrize("kind", ["svg", "html", "cloud.svg"])
def test_page_is_rendered_to_a_screenshot(kind: str, containers: int, tmp_path: Path) -> None:
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
