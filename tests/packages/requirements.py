"""Run inside a tree by its own Python: prints what the installed Python packages lack, one a line.

usage: python3 requirements.py REQUIREMENT ...
"""

import importlib
import pkgutil
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

PATH = ["/usr/lib/ovn-docker", "/usr/lib/ovn-docker-underlay"]


def numbers(version: str) -> list[int]:
    return [int(word) for word in re.match(r"[\d.]*", version)[0].strip(".").split(".")]  # type: ignore[index]


def lacking(requirement: str, seen: set[str]) -> list[str]:
    """Return what is missing or too old among a requirement and all that it requires."""
    text, _, marker = requirement.partition(";")
    if "extra" in marker or re.search(r"python_version\s*<|platform|sys_", marker):
        return []
    name = re.match(r"[A-Za-z0-9._-]+", text.strip())[0]  # type: ignore[index]
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return [f"{name} is missing"]
    problems = [
        f"{name} {found.version} does not satisfy {text.strip()}"
        for lowest in re.findall(r">=?\s*([\d.]+)", text)
        if numbers(found.version) < numbers(lowest)
    ]
    if name.lower() not in seen:
        seen.add(name.lower())
        problems += [line for one in found.requires or [] for line in lacking(one, seen)]
    return problems


def main() -> None:
    sys.path[:0] = PATH
    seen: set[str] = set()
    for requirement in sys.argv[1:]:
        for line in lacking(requirement, seen):
            print(line)
    import ovn_docker

    for module in pkgutil.walk_packages(ovn_docker.__path__, "ovn_docker."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # The overlay mode does without it.
            if error.name != "openstack" or "openstacksdk" in "".join(sys.argv):
                raise


main()
