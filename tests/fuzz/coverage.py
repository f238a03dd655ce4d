"""Search for inputs that reach new code, with libFuzzer by atheris: ``python -m fuzz.coverage TARGET RUNS``.

Inputs that cause failures are left in tests/fuzz/corpus/TARGET, for test_corpus.py to repeat.
"""

import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ovn_docker", "http", "ovs", "ipaddress"]):
    from fuzz import targets

CORPUS = Path(__file__).with_name("corpus")
GROWTH = 64
"""Allowed growth in MiB after a tenth of the run: libFuzzer keeps inputs that reach new code."""


def memory() -> int:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(target: str, runs: int) -> None:
    found = CORPUS / target
    found.mkdir(parents=True, exist_ok=True)
    done, early = 0, 0

    def one(data: bytes) -> None:
        nonlocal done, early
        targets.TARGETS[target](data)
        done += 1
        if done == runs // 10:
            early = memory()
        if done == runs:
            print(f"{target}: {done} inputs, {early} to {memory()} MiB", flush=True)
            assert memory() <= early + GROWTH, "it grows"

    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(targets.seeds(target)):
            Path(directory, str(number)).write_bytes(seed)
        options = [f"-runs={runs}", "-max_len=4096", "-timeout=10", "-seed=1", "-print_final_stats=0"]
        places = [f"-artifact_prefix={found}/", "-verbosity=0", directory, str(found)]
        atheris.Setup([sys.argv[0], *options, *places], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
