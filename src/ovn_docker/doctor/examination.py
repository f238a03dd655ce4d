"""Run all checks on this host, and the cures that can do no harm."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ovn_docker.backends.neutron.openrc import VIF
from ovn_docker.doctor.checks import ACTIVE, CHECKS, UNDERLAY
from ovn_docker.doctor.comparison import differences
from ovn_docker.doctor.diagnosis import Facts, Result, examine
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.environment import environment
from ovn_docker.host.own_process import search_path
from ovn_docker.host.run import StepFailed, addressed, run
from ovn_docker.inspect import cloud
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.probes import probe
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.model import Difference

_COMPARISON_TIMEOUT = 10.0
"""Seconds that the driver may take to compare."""

_ROUNDS = 4
"""Examinations while cures are applied: one cause removed may show another."""


def run_checks(*, active: bool = True) -> tuple[Result, ...]:
    """Run all checks, or those that are not *active*: they change nothing and need no capability.

    The commands of cures are for the database that the driver's settings name.
    """
    return tuple(map(_addressed, _results(active=active)))


def _addressed(result: Result) -> Result:
    findings = (
        replace(finding, commands=tuple(map(addressed, finding.commands))) for finding in result.findings
    )
    return replace(result, findings=tuple(findings))


def _results(*, active: bool) -> tuple[Result, ...]:
    with Sources() as sources:
        cluster = ClusterView(sources.gather(Scope.NETWORKS))
        left = _leftovers(cluster)
        variables = environment(os.environ)
        if not (cluster.snapshot.underlay or variables.get(VIF)):
            checks = CHECKS if active else tuple(check for check in CHECKS if check.name not in ACTIVE)
            return examine(Facts(cluster, probe(sources, cluster, active=active), leftovers=left), checks)
        bridge = variables.get("OVN_DOCKER_BRIDGE") or "breth0"
        found = cluster.snapshot.cloud or cloud.ask(variables)
        probes = probe(sources, cluster, active=active)
        checks = UNDERLAY if active else tuple(check for check in UNDERLAY if check.name not in ACTIVE)
        return examine(Facts(cluster, probes, found, bridge, left), checks)


def _leftovers(cluster: ClusterView) -> Sequence[Difference] | str:
    """Return the differences on this host, or the reason why they cannot be found out."""
    for part in ("vswitch", "docker", "" if cluster.snapshot.underlay else "northbound"):
        if part in cluster.snapshot.missing:  # a part that does not answer is not waited for again
            return cluster.snapshot.missing[part]
    try:
        return differences(timeout=_COMPARISON_TIMEOUT)
    except OvnDockerError as error:
        return str(error)


def apply_cures(
    results: tuple[Result, ...],
    before: Callable[[tuple[str, ...]], None],
    failed: Callable[[str], None],
) -> tuple[Result, ...]:
    """Run the commands of safe cures until no new ones are found; return the results of the last checks.

    *before* is called with each command before it runs, *failed* with the error of one that failed.
    """
    done: set[tuple[str, ...]] = set()
    for _ in range(_ROUNDS):
        commands = [
            command
            for result in results
            for finding in result.findings
            if finding.safe and not finding.where
            for command in finding.commands
            if command not in done
        ]
        if not commands:
            break
        for command in dict.fromkeys(commands):
            done.add(command)
            before(command)
            if error := _run(command):
                failed(error)
        results = run_checks()
    return results


def _run(command: Sequence[str]) -> str:
    """Run a command, a program of ovn-docker from the directory of this one; return the error, or nothing."""
    path = search_path(f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    try:
        # By its full path: run() would add the database to the arguments of ovs-vsctl once more.
        run((shutil.which(command[0], path=path) or command[0], *command[1:]), variables={"PATH": path})
    except StepFailed as failed:
        return f"exit code {failed.code}: {(failed.lines or ('no output',))[-1]}"
    except OvnDockerError as error:
        return str(error)
    return ""
