"""Draw the page of ``ovn-docker graph --serve``: an empty frame, which its script fills.

The script and the style sheet are files beside this module. The page loads nothing but its own state.
"""

from functools import cache
from pathlib import Path

from ovn_docker.draw.page import source
from ovn_docker.draw.svg import STYLESHEET, safe


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def live_policy() -> str:
    """Return the content security policy (CSP level 3) of the page.

    Its own script and styles are admitted by their hash, and may load from its own server. Trusted types keep
    the script from making markup of texts.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {source(_file('live.js'))}",
            f"style-src {source(_file('live.css'))} {source(STYLESHEET)}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def live_page(host: str) -> str:
    """Return the page of a host."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ovn-docker on {safe(host)}</title>
<style>{_file("live.css")}</style>
</head>
<body>
<a class="skip" href="#containers">Skip to the containers</a>
<header>
<h1>ovn-docker <span class="soft">on {safe(host)}</span></h1>
<p id="contact" role="status">reading &hellip;</p>
<nav aria-label="Parts of the page">
<a href="#faults">Faults<b id="fault-count"></b></a>
<a href="#picture">Picture</a>
<a href="#networks">Networks</a>
<a href="#containers">Containers</a>
<a href="#tunnels">Tunnels</a>
<a href="#hosts">Hosts</a>
</nav>
</header>
<main>
<ul id="summary" aria-label="Summary"></ul>
<section id="faults" aria-labelledby="faults-title">
<h2 id="faults-title">Faults</h2>
<p id="doctor-state" class="soft"></p>
<ul id="findings" class="cards"></ul>
<h3 id="differences-title" hidden>Differences</h3>
<ol id="differences"></ol>
</section>
<section id="picture" aria-labelledby="picture-title">
<h2 id="picture-title">Picture</h2>
<p class="tools"><button type="button" id="zoom" aria-pressed="false">Full size</button>
<span class="soft" id="picture-note">Choose a container for its details. A bar shows its traffic.</span></p>
<div id="drawing" tabindex="0" role="region" aria-label="Picture of hosts, networks and containers"></div>
</section>
<section id="networks" aria-labelledby="networks-title">
<h2 id="networks-title">Networks</h2>
<div class="table"></div>
</section>
<section id="containers" aria-labelledby="containers-title">
<h2 id="containers-title">Containers</h2>
<p class="tools"><label>Search <input type="search" id="search" placeholder="name, address, network, host"
autocomplete="off" spellcheck="false"></label>
<button type="button" id="only" aria-pressed="false">Only those that are not up</button>
<span id="found" class="soft" role="status"></span></p>
<div class="table"></div>
</section>
<section id="tunnels" aria-labelledby="tunnels-title">
<h2 id="tunnels-title">Tunnels</h2>
<div class="table"></div>
</section>
<section id="hosts" aria-labelledby="hosts-title">
<h2 id="hosts-title">Hosts</h2>
<div class="table"></div>
</section>
<p class="soft">Traffic is counted by each host's Open vSwitch, for its own containers and tunnels. This page
changes nothing and sends no packets; <code>ovn-docker doctor</code> tests the tunnels too.</p>
</main>
<dialog id="details" aria-labelledby="details-title">
<div class="top"><h2 id="details-title"></h2><button type="button" id="close">Close</button></div>
<p id="details-traffic"></p>
<dl id="facts"></dl>
<div id="trace">
<h3>Trace a packet from here</h3>
<p class="tools"><label>to <select id="target"></select></label>
<label>packet <input id="packet" value="icmp" size="9" autocomplete="off" spellcheck="false"
aria-describedby="packet-help"></label>
<button type="button" id="run">Trace</button></p>
<p class="soft" id="packet-help">icmp, tcp/PORT or udp/PORT. No packet is sent.</p>
<pre id="traced" role="status" tabindex="0" hidden></pre>
</div>
</dialog>
<noscript><p>This page needs JavaScript. Without it: <code>ovn-docker ls</code>,
<code>ovn-docker doctor</code>.</p></noscript>
<script>{_file("live.js")}</script>
</body>
</html>
"""
