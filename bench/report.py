"""Results as a table for people and as JSON for programs."""

import json
import os
import platform
import statistics
import subprocess
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ovn_docker

USUAL, KERNEL = "<!-- measured: python -m bench --document -->", "<!-- measured: make bench-kernel -->"
"""Lines of the document, each before a table."""

END = "<!-- end of measured -->"

HEADINGS = ("measure", "ours", "theirs", "ratio", "goal", "met")


@dataclass(frozen=True)
class Line:
    """One line of the table; *ours* and *theirs* are in *unit*, *against* names the alternative.

    *goal*: the goal in words; *met*: True if it is met, None without a goal.
    """

    measure: str
    ours: float
    unit: str
    theirs: float | None = None
    against: str = ""
    goal: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """The ratio of ours to theirs."""
        return self.ours / self.theirs if self.theirs else None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        theirs = "" if self.theirs is None else f"{_number(self.theirs)} {self.unit} ({self.against})"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        met = {None: "", True: "yes", False: "no"}[self.met]
        return self.measure, f"{_number(self.ours)} {self.unit}", theirs, ratio, self.goal, met


def p50(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def table(lines: Iterable[Line]) -> str:
    """Return the lines as Markdown."""
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def document(path: Path, results: Path, place: str) -> None:
    """Replace the table of results below the line *place*, with the machine that they were measured on.

    Raises ValueError if the document lacks the marks of that table.
    """
    before, begin, rest = path.read_text().partition(place)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no place for the table: no line {place} with {END} below")
    path.write_text(f"{before}{begin}{described(results)}{end}{after}")


def described(results: Path) -> str:
    """Return the machine, its load, and the table."""
    known = json.loads(results.read_text())
    where, measured = known["machine"], known["measures"]
    versions = ", ".join(where["versions"][name] for name in ("docker", "ovs", "ovn"))
    module = "with" if where["openvswitch_module"] else "without"
    loads = ", ".join(f"{number}: {measured[number]['load'][0]:.1f}" for number in sorted(measured, key=int))
    favoured = ", ".join(number for number in sorted(measured, key=int) if measured[number].get("real_time"))
    text = (
        f"{where['processor']}, {where['cores']} cores, {where['memory_gib']:.0f} GiB, Linux "
        f"{where['kernel'].partition('-')[0]} {module} the openvswitch module; {versions}, Python "
        f"{where['versions']['python']}. Load of the machine after each measure: {loads}. "
        f"With real-time priority: {favoured or 'none'}."
    )
    return "\n" + "\n".join(textwrap.wrap(text, 118)) + f"\n\n{table(load(results))}\n"


def machine() -> dict[str, Any]:
    """Return a description of the machine, without which figures mean nothing."""
    with Path("/proc/cpuinfo").open() as cpuinfo:
        models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "openvswitch_module": Path("/sys/module/openvswitch").exists(),
        "versions": {
            "python": platform.python_version(),
            "docker": _version("dockerd", "--version"),
            "ovs": _version("ovs-vswitchd", "--version"),
            "ovn": _version("ovn-controller", "--version"),
            "ovn-docker": ovn_docker.__version__,
        },
    }


def save(
    path: Path, measure: str, lines: Iterable[Line], details: dict[str, Any], *, real_time: bool = False
) -> None:
    """Write the results, in the place of earlier ones of the same measures."""
    results = json.loads(path.read_text()) if path.is_file() else {"measures": {}}
    results["machine"] = machine()
    results["measures"][measure] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg(),
        "real_time": real_time,
        "lines": [asdict(line) | {"ratio": line.ratio} for line in lines],
        "details": details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def load(path: Path) -> list[Line]:
    """Return the saved results by measure."""
    measured = json.loads(path.read_text())["measures"]
    return [
        Line(**{key: value for key, value in line.items() if key != "ratio"})
        for number in sorted(measured, key=int)
        for line in measured[number]["lines"]
    ]


def _version(*command: str) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


def _number(value: float) -> str:
    return (
        f"{value:.0f}"
        if value >= 100 or value == int(value)
        else f"{value:.1f}"
        if value >= 1
        else f"{value:.2f}"
    )
