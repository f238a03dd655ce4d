"""``python -m bench``: measure, print the table, write the results."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import data_path, docker_run, endpoint_life, kernel_data_path, many_hosts, members, northd, scale
from bench.laboratory import Laboratory, new_laboratory
from bench.report import KERNEL, USUAL, Line, document, load, save, table

RESULTS = Path(__file__).parent / "results" / "latest.json"
KERNEL_RESULTS = RESULTS.with_name("kernel-bookworm.json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
FAVOURED = ("1", "2", "4")
OF_THE_KERNEL = ("10",)
"""Measures that need the kernel's module openvswitch, in a file of their own: make bench-kernel."""

Measure = Callable[[Laboratory], tuple[list[Line], dict[str, Any]]]


def measures(part: float) -> dict[str, Measure]:
    """Return the measures by number; a *part* below 1 makes fewer rounds, to test the benchmark itself."""

    def rounds(number: int) -> int:
        return max(2, round(number * part))

    return {
        "1": lambda lab: endpoint_life.life(lab, rounds(200), rounds(20)),
        "2": lambda lab: endpoint_life.concurrency(
            lab, [1, 4, 16, 64] if part >= 0.1 else [1, 4], rounds(200)
        ),
        "3": lambda lab: scale.cluster(lab, [rounds(10_000), rounds(100_000)], rounds(100), rounds(5_000)),
        "4": lambda lab: docker_run.wall_time(lab, rounds(20)),
        "5": lambda lab: docker_run.packets_lost(lab, rounds(200)),
        "6": lambda lab: data_path.data_path(lab, rounds(10), max(1, rounds(3) if part >= 0.5 else 1)),
        "7": lambda lab: many_hosts.many_hosts(lab, rounds(50), 20),
        "8": lambda _: members.members(rounds(200), 5),
        "9": lambda lab: northd.versions(
            lab, [max(100, rounds(ports)) for ports in (1_000, 5_000, 20_000)], rounds(12)
        ),
        "10": lambda lab: kernel_data_path.kernel_data_path(
            lab, max(1, 5 * part), max(1, rounds(3) if part >= 0.5 else 1), 100 if part >= 0.5 else 4
        ),
    }


def main() -> None:
    """Parse the command line and run the measures."""
    known = list(measures(1))
    parser = argparse.ArgumentParser(prog="bench", description="Measure ovn-docker side by side with others.")
    usual = [number for number in known if number not in OF_THE_KERNEL]
    which = f"which: {', '.join(known)} (default all but {', '.join(OF_THE_KERNEL)}: see make bench-kernel)"
    parser.add_argument("measures", nargs="*", default=usual, help=which)
    parser.add_argument("--scale", type=float, default=1.0, help="rounds, as a part of the full number")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write them")
    parser.add_argument("--show", action="store_true", help="only print the table of what was written")
    parser.add_argument("--document", action="store_true", help=f"only write the tables into {DOCUMENT.name}")
    parser.add_argument(
        "--real-time",
        action="store_true",
        help=f"measures {', '.join(FAVOURED)} with real-time priority for their host: on a busy machine",
    )
    arguments = parser.parse_args()
    if arguments.show:
        print(table(load(arguments.results)))
        return
    if arguments.document:
        document(DOCUMENT, arguments.results, USUAL)
        if KERNEL_RESULTS.is_file():
            document(DOCUMENT, KERNEL_RESULTS, KERNEL)
        return
    if unknown := set(arguments.measures) - set(known):
        parser.error(f"no measure {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    measured: list[Line] = []
    with new_laboratory(real_time=arguments.real_time) as laboratory:
        for number in arguments.measures:
            start = time.monotonic()
            lines, details = measures(arguments.scale)[number](laboratory)
            measured += lines
            favoured = arguments.real_time and number in FAVOURED
            save(arguments.results, number, lines, details, real_time=favoured)
            print(f"measure {number}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(table(measured))


main()
