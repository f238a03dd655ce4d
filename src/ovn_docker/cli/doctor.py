"""``ovn-docker doctor``: what is wrong here, the cause of it and not its consequences, and what to do."""

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ovn_docker import printable
from ovn_docker.backends.openrc import VIF
from ovn_docker.cli import gc
from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.output import bad, doubtful, good, print_json, say
from ovn_docker.cli.steps import addressed
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.environment import environment
from ovn_docker.model import Difference
from ovn_docker.programs import search_path
from ovn_docker.view import cloud
from ovn_docker.view.checks import CHECKS, UNDERLAY
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.gather import Sources
from ovn_docker.view.health import Facts, Finding, Result, Severity, examine
from ovn_docker.view.probes import probe
from ovn_docker.view.snapshot import Scope

TEXT = """\
Finds what is wrong with the network of this host: it looks at Docker, the driver, Open vSwitch, OVN's
databases, the other hosts, the tunnels to them, and the containers, and sends echo requests. It says the
cause, not what follows from it, and what to do. Some seconds at most. Run it on each host that has a problem.

Exit code 0: nothing is wrong; 1: something is.

examples:
  ovn-docker doctor
  ovn-docker doctor --fix       do what can be done without harm, then look again
  ovn-docker doctor --all       every check, with its verdict
"""

PATIENCE = 10.0
"""Seconds that the driver may take to compare."""

ROUNDS = 4
"""A cause that is mended may show another."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``ovn-docker doctor``."""
    describe(parser, TEXT, run)
    parser.add_argument("--fix", action="store_true", help="type the commands that can do no harm")
    parser.add_argument("--all", action="store_true", help="show every check")


def run(args: argparse.Namespace) -> int:
    """Looks, with --fix mends and looks again, and prints what there is to say."""
    require_root()
    results = look()
    if args.fix:
        results = fix(results)
    if args.json:
        print_json([as_row(result) for result in results])
    else:
        show(results, everything=args.all)
    return 1 if any(result.findings for result in results) else 0


def look() -> tuple[Result, ...]:
    """The results of all checks, now."""
    return tuple(map(_addressed, examined()))


def _addressed(result: Result) -> Result:
    """With commands for the database that the driver's settings name."""
    findings = (
        replace(finding, commands=tuple(map(addressed, finding.commands))) for finding in result.findings
    )
    return replace(result, findings=tuple(findings))


def examined() -> tuple[Result, ...]:
    """The results of all checks, now, as the checks word them."""
    with Sources() as sources:
        cluster = Cluster(sources.gather(Scope.NETWORKS))
        left = leftovers(cluster)
        variables = environment(os.environ)
        if not (cluster.snapshot.underlay or variables.get(VIF)):
            return examine(Facts(cluster, probe(sources, cluster), leftovers=left), CHECKS)
        bridge = variables.get("OVN_DOCKER_BRIDGE") or "breth0"
        found = cluster.snapshot.cloud or cloud.ask(variables)
        return examine(Facts(cluster, probe(sources, cluster), found, bridge, left), UNDERLAY)


def leftovers(cluster: Cluster) -> Sequence[Difference] | str:
    """What should not be, or why nobody can tell."""
    for part in ("vswitch", "docker", "" if cluster.snapshot.underlay else "northbound"):
        if part in cluster.snapshot.missing:  # who does not answer is not waited for again
            return cluster.snapshot.missing[part]
    try:
        return gc.differences(patience=PATIENCE)
    except OvnDockerError as error:
        return str(error)


def fix(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """Types commands that can do no harm until there are none, or one fails; returns what is left."""
    done: set[tuple[str, ...]] = set()
    for _ in range(ROUNDS):
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
            say(f"fix: {printable.command(*command)}", file=sys.stderr, flush=True)
            if problem := failed(command):
                say(f"     failed: {problem}", file=sys.stderr)
        results = look()
    return results


def failed(command: Sequence[str]) -> str:
    """Run a command, a program of ours from where this one is; returns the failure, or nothing."""
    path = search_path(f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": path},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
    return f"exit code {done.returncode}: {said}" if done.returncode else ""


def as_row(result: Result) -> dict[str, object]:
    """A result as it is in JSON."""
    return {
        "name": result.check.name,
        "about": result.check.about,
        "depends_on": result.check.depends_on,
        "status": result.status,
        "because": result.because,
        "findings": [asdict(finding) for finding in result.findings],
    }


TONES = {"ok": good, "fail": bad}


def show(results: Sequence[Result], *, everything: bool) -> None:
    """Findings, worst first, and a line that counts."""
    findings = [(result.check.name, finding) for result in results for finding in result.findings]
    findings.sort(key=lambda one: one[1].severity is not Severity.FAIL)
    for name, finding in findings:
        show_finding(name, finding)
    if everything:
        width = max(len(result.check.name) for result in results)
        for result in results:
            why = f"because of {result.because}" if result.status == "skipped" else result.because
            tone = TONES.get(result.status, doubtful)
            about = f"{result.check.name:{width}}  {why or result.check.about}".rstrip()
            say(tone(f"{result.status:8}"), about)
    say(summary(results))


def show_finding(name: str, finding: Finding) -> None:
    """Evidence, cure, and the commands, each on a line that can be copied."""
    tone = bad if finding.severity is Severity.FAIL else doubtful
    say(tone(f"{finding.severity:5}"), f" {name}: {finding.evidence}")
    say(f"      cure: {finding.cure}")
    prompt = f"{finding.where}$" if finding.where else "$"
    for command in finding.commands:
        say(f"          {prompt} {printable.command(*command)}")
    say()


def summary(results: Sequence[Result]) -> str:
    """Such as ``48 checks: 1 found something, 40 found nothing, 6 not made because of controller``."""
    count = Counter(result.status for result in results)
    causes = dict.fromkeys(result.because for result in results if result.status == "skipped")
    parts = [
        f"{count['fail'] + count['warn']} found something" if count["fail"] + count["warn"] else "",
        f"{count['ok']} found nothing",
        f"{count['skipped']} not made because of {', '.join(causes)}" if causes else "",
        f"{count['unknown']} could not be made" if count["unknown"] else "",
    ]
    return f"{len(results)} checks: {', '.join(filter(None, parts))}"
