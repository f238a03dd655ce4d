"""``python -m bench.kernel_machine``: measure 10 in the virtual machine of `make test-kernel`."""

import argparse
from pathlib import Path

from bench import report
from kernel.machine import ACCELERATORS, RELEASES, boot, image

RESULTS = Path(__file__).parent / "results"
INSIDE = "/root/results.json"


def main() -> None:
    """Boot the machine, measure in it, and write its results here."""
    parser = argparse.ArgumentParser(prog="bench.kernel_machine", description=__doc__)
    parser.add_argument("--release", choices=RELEASES, default=RELEASES[0], help="the machine's Debian")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default=ACCELERATORS[0], help="QEMU's")
    parser.add_argument("--scale", type=float, default=1.0, help="rounds, as a part of the full number")
    parser.add_argument("--results", type=Path, help="where to write them (default: by release)")
    arguments = parser.parse_args()
    machine = boot(image(arguments.release), arguments.accelerator)
    try:
        machine.put_tree()
        machine.run("systemctl stop docker docker.socket; rm -f " + INSIDE)
        environment = f"OVN_DOCKER_TEST_PATIENCE={machine.timeout_factor:g} PYTHONPATH=tests"
        bench = f".venv/bin/python -m bench --scale {arguments.scale} --results {INSIDE} 10"
        machine.run(f"{environment} {bench}", 7200)
        results = arguments.results or RESULTS / f"kernel-{arguments.release}.json"
        results.write_text(machine.read(f"cat {INSIDE}"))
    finally:
        machine.close()
    print(report.table(report.load(results)))


if __name__ == "__main__":
    main()
