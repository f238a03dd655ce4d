"""Measures 1 and 2: an endpoint's life through the plugin's socket, alone and with others in flight."""

from typing import Any

from bench.laboratory import SUBJECTS, Laboratory, Waits, left_behind, usage
from bench.plugin_calls import CALLS
from bench.report import Line, p50, p99

MS = 1000.0
OF_THE_FLOOR = 0.8


def life(laboratory: Laboratory, lives: int, warm_up: int) -> tuple[list[Line], dict[str, Any]]:
    """Compare each call and their sum with the old driver and with the floor."""
    host = laboratory.central
    pid = host.driver.pid or 0
    before = usage(host, pid)
    times = laboratory.lives(host, SUBJECTS, lives, warm_up=warm_up)["times"]
    own = (usage(host, pid).user - before.user) / (lives + warm_up) * MS
    ms = {
        name: {call: [s * MS for s in values] for call, values in calls.items()}
        for name, calls in times.items()
    }
    lines = []
    for call in CALLS:
        what = f"1 {call}" + (" until the flows are in" if call == "Join" else "")
        lines.append(Line(f"{what}, p50", p50(ms["ours"][call]), "ms", p50(ms["old"][call]), "old driver"))
    total, floor = p50(ms["ours"]["sum"]), p50(ms["floor"]["sum"])
    limit = min(60.0, 1.3 * floor)
    lines += [
        Line("1 whole life, p50", total, "ms", p50(ms["old"]["sum"]), "old driver"),
        Line("1 whole life, p99", p99(ms["ours"]["sum"]), "ms", p99(ms["old"]["sum"]), "old driver"),
        Line("1 whole life, p50", total, "ms", floor, "floor", f"≤ {limit:.0f} ms", total <= limit),
        Line("1 driver's own share: its processor time", own, "ms", goal="≤ 10 ms", met=own <= 10),
    ]
    details = {
        name: {call: {"p50": p50(values), "p99": p99(values)} for call, values in calls.items()}
        for name, calls in ms.items()
    }
    return lines, {"ms": details, "lives": lives}


def concurrency(laboratory: Laboratory, levels: list[int], lives: int) -> tuple[list[Line], dict[str, Any]]:
    """Compare lives per second with many in flight; ours is measured before and after the others."""
    host, details, lines = laboratory.central, {}, []
    before = left_behind(host)
    vswitchd = int(host.path("/run/openvswitch/ovs-vswitchd.pid").read_text())
    for level in levels:
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "old": [], "floor": []}
        failed: dict[str, list[str]] = {name: [] for name in found}
        waits = []
        for name in ("floor", "ours", "old", "ours", "floor"):
            number = max(lives // (4 if name == "old" else 1), level)
            with Waits(host, vswitchd) as waiting:
                run = laboratory.lives(host, {name: SUBJECTS[name]}, number, in_flight=level)
            if name == "floor":
                waits.append(waiting.part)
            sums = run["times"][name].get("sum", [])
            seconds = run.get("seconds", {}).get(name) or sum(sums)
            found[name].append(
                {"per_second": len(sums) / seconds, "p99_ms": p99(sums) * MS if sums else None}
            )
            failed[name] += run["failed"]
        rate = {name: p50([run["per_second"] for run in runs]) for name, runs in found.items()}
        enough = rate["ours"] >= min(60, OF_THE_FLOOR * rate["floor"])
        goal = {"goal": f"≥ 60/s or {OF_THE_FLOOR} of theirs", "met": enough} if level == 16 else {}
        what = f"2 lives per second, {level} in flight"
        lines += [
            Line(what, rate["ours"], "/s", rate["old"], "old driver"),
            Line(what, rate["ours"], "/s", rate["floor"], "floor", **goal),
        ]
        details[str(level)] = found | {"failed": failed, "vswitchd_waits": waits}
        if level == 16:
            lines.append(Line("2 the floor, 16 in flight: ovs-vswitchd waits for the kernel's RCU",
                              p50(waits) * 100, "%"))  # fmt: skip
    lost = left_behind(host) - before + sum(len(level["failed"]["ours"]) for level in details.values())
    lines.append(Line("2 calls failed or endpoints left behind", lost, "", goal="0", met=lost == 0))
    return lines, details
