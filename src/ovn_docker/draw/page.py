"""Draw the picture as a searchable HTML page: one file that needs no others and no server. Pure."""

from base64 import b64encode
from hashlib import sha256

from ovn_docker.draw.layout import Picture
from ovn_docker.draw.svg import STYLESHEET, safe, svg

_STYLE = """
:root { color-scheme: light dark; --page: #f6f8fa; --panel: #ffffff; --line: #d3dbe3;
  --ink: #1d2730; --soft: #5a6875; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f151b; --panel: #182029; --line: #2d3844; --ink: #e4eaf0; --soft: #9fadba; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 14px system-ui, 'DejaVu Sans', sans-serif; }
header { position: sticky; top: 0; z-index: 1; display: flex; gap: 12px; align-items: center; flex-wrap: wrap;
  padding: 10px 24px; background: var(--panel); border-bottom: 1px solid var(--line); }
input, button { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 8px; padding: 7px 12px; }
input { width: min(420px, 60vw); }
button { cursor: pointer; } button[aria-pressed=true] { border-color: #2f6fde; color: #2f6fde; }
:is(input, button):focus-visible { outline: 2px solid #2f6fde; outline-offset: 1px; }
#found { color: var(--soft); margin-left: auto; }
main svg { display: block; width: 100%; height: auto; } main.whole svg { width: auto; max-width: none; }
main { overflow-x: auto; }
.container { cursor: pointer; }
svg.some .container:not(.match) { opacity: .16; }
.container:hover .tile, .container.same .tile, .container:focus .tile { stroke: #2f6fde; stroke-width: 2.5; }
.container:focus { outline: none; }
.container.chosen .tile { stroke: #2f6fde; stroke-width: 3.5; }
aside { position: fixed; right: 24px; bottom: 24px; width: min(380px, calc(100vw - 48px)); padding: 14px 18px;
  background: var(--panel); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: 0 8px 30px #0004; }
aside[hidden] { display: none; }
aside h2 { font-size: 16px; margin: 0 30px 8px 0; overflow-wrap: anywhere; }
aside p { margin: 3px 0; color: var(--soft); overflow-wrap: anywhere; }
aside p.bad { color: #d3273e; font-weight: 600; }
aside button { position: absolute; right: 10px; top: 10px; padding: 2px 9px; }
@media print { header, aside { display: none; } }
"""

_SCRIPT = """
'use strict';
const svg = document.querySelector('main svg'), box = document.querySelector('input');
const found = document.getElementById('found'), panel = document.querySelector('aside');
const tiles = [...svg.querySelectorAll('.container')];
for (const tile of tiles) {
  tile.description = tile.querySelector('title').textContent;
  tile.text = tile.description.toLowerCase();
  tile.setAttribute('tabindex', '0');
  tile.setAttribute('role', 'button');
}
let faultsOnly = false;
function search() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const tile of tiles) {
    const wanted = !faultsOnly || tile.dataset.state !== 'up';
    const match = wanted && words.every(word => tile.text.includes(word));
    tile.classList.toggle('match', match);
    count += match;
  }
  svg.classList.toggle('some', words.length > 0 || faultsOnly);
  found.textContent = `${count} of ${tiles.length}`;
}
function same(name, host, on) {
  for (const tile of tiles)
    if (tile.dataset.name === name && tile.dataset.host === host) tile.classList.toggle('same', on);
}
function choose(tile) {
  document.querySelector('.chosen')?.classList.remove('chosen');
  panel.hidden = !tile;
  if (!tile) return;
  tile.classList.add('chosen');
  const [title, ...lines] = tile.description.split('\\n');
  panel.querySelector('h2').textContent = title;
  panel.querySelector('div').replaceChildren(...lines.map(line => {
    const paragraph = document.createElement('p');
    paragraph.textContent = line;
    paragraph.className = line.startsWith('!') ? 'bad' : '';
    return paragraph;
  }));
}
for (const tile of tiles) {
  const { name, host } = tile.dataset;
  tile.addEventListener('mouseenter', () => same(name, host, true));
  tile.addEventListener('mouseleave', () => same(name, host, false));
  tile.addEventListener('click', () => choose(tile));
  tile.addEventListener('keydown', event => { if (event.key === 'Enter') choose(tile); });
}
function press(button, what) {
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', on);
    what(on);
  });
}
press(document.getElementById('faults'), on => { faultsOnly = on; search(); });
press(document.getElementById('whole'), on => document.querySelector('main').classList.toggle('whole', on));
panel.querySelector('button').addEventListener('click', () => choose(null));
box.addEventListener('input', search);
document.addEventListener('keydown', event => {
  if (event.key === '/' && document.activeElement !== box) { event.preventDefault(); box.focus(); }
  if (event.key === 'Escape') { box.value = ''; search(); choose(null); }
});
if (location.hash.length > 1) box.value = decodeURIComponent(location.hash.slice(1));
search();
"""


def source(text: str) -> str:
    """Return the hash of an inline script or style as a source expression of a content security policy."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {source(_SCRIPT)}",
        f"style-src {source(_STYLE)} {source(STYLESHEET)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
"""Content security policy (CSP level 3): names on the page come from containers, so the page's own script and
styles are admitted by their hash, no other script or event handler runs, and nothing is loaded or sent."""


def page(picture: Picture) -> str:
    """Return the contents of the file."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>ovn-docker on {safe(picture.cluster.snapshot.host)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<input type="search" placeholder="name, address, MAC, host, network ( / )" aria-label="search">
<button id="faults" aria-pressed="false">only containers that are not up</button>
<button id="whole" aria-pressed="false">full size</button>
<span id="found" role="status"></span>
</header>
<main>
{svg(picture)}</main>
<aside hidden><button aria-label="close">&times;</button><h2></h2><div></div></aside>
<script>{_SCRIPT}</script>
</body>
</html>
"""
