"""``python -m chaos``: a number of faults, and a table of them; exit status 1 at the first violation."""

import argparse
import sys
import time

from chaos.mode import Mode
from chaos.overlay import Overlay
from chaos.run import Chaos, Violation
from chaos.underlay import Underlay
from e2e.lab import Fabric, missing
from e2e.lab.cloud import RELEASES, Cloud, missing_for_cloud
from e2e.lab.images import SUITES


def main() -> int:
    """Parse the command line and run the suite."""
    parser = argparse.ArgumentParser(prog="chaos", description="Docker commands while everything fails.")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="seed of commands and faults (default: now)"
    )
    parser.add_argument("--faults", type=int, default=100, help="number of faults (default 100)")
    engines = ("20.10", *SUITES)
    parser.add_argument("--engine", choices=engines, default=engines[0], help="the version of Docker")
    parser.add_argument("--raft", action="store_true", help="OVN's databases on all hosts, not on the first")
    parser.add_argument("--underlay", action="store_true", help="Docker in VMs of an OpenStack cloud")
    parser.add_argument("--keep", action="store_true", help="after a violation leave the hosts running")
    arguments = parser.parse_args()
    if arguments.underlay and (arguments.raft or arguments.engine != engines[0]):
        parser.error("--underlay has the one engine and the one database")
    if reasons := missing() or (missing_for_cloud() if arguments.underlay else []):
        parser.error(f"no lab here: {', '.join(reasons)}")
    fabric = Fabric()
    kept = ""
    try:
        mode: Mode
        if arguments.underlay:
            cloud = Cloud(fabric, RELEASES[-1])
            mode = Underlay(cloud, cloud.boot_three())
        else:
            mode = Overlay(fabric, arguments.engine, raft=arguments.raft)
        chaos = Chaos(mode, arguments.seed, lambda line: print(line, flush=True))
        try:
            chaos.rounds(arguments.faults)
        except Violation as violation:
            chaos.log(f"VIOLATION\n{violation}\n\n{chaos.evidence()}\n")
            kept = fabric.keep() if arguments.keep else ""
        print(chaos.summary(), kept, sep="\n")
        return int(bool(chaos.violated))
    finally:
        if not kept:
            fabric.close()


sys.exit(main())
