"""``ovn-docker doctor``: find the causes of faults on this host, and cures."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.doctor.diagnosis import Finding, Result, Severity
from ovn_docker.doctor.examination import apply_cures, run_checks
from ovn_docker.text import printable
from ovn_docker.text.output import bad, doubtful, good, print_json, say

TEXT = """\
Find faults of the network of this host: check Docker, the driver, Open vSwitch, OVN's databases, the other
hosts, the tunnels to them, and the containers, and send echo requests. Each cause is shown with its cure;
consequences are not shown. It takes a few seconds. Run it on each host that has a problem.

Exit code 0: no faults; 1: faults.

examples:
  ovn-docker doctor
  ovn-docker doctor --fix       apply cures that can do no harm, then check again
  ovn-docker doctor --all       show every check with its result
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ovn-docker doctor``."""
    describe(parser, TEXT, run)
    parser.add_argument("--fix", action="store_true", help="run the commands that can do no harm")
    parser.add_argument("--all", action="store_true", help="show every check")


def run(args: argparse.Namespace) -> int:
    """Run all checks, with --fix the safe cures too, and print the findings."""
    require_root()
    results = run_checks()
    if args.fix:
        results = apply_cures(
            results,
            lambda command: say(f"fix: {printable.command(*command)}", file=sys.stderr, flush=True),
            lambda error: say(f"     failed: {error}", file=sys.stderr),
        )
    if args.json:
        print_json([as_row(result) for result in results])
    else:
        show(results, everything=args.all)
    return 1 if any(result.findings for result in results) else 0


def as_row(result: Result) -> dict[str, object]:
    """Return a result for JSON."""
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
    """Print the findings, worst first, and a summary."""
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
    """Print evidence, cure, and commands, each on a line that can be copied."""
    tone = bad if finding.severity is Severity.FAIL else doubtful
    say(tone(f"{finding.severity:5}"), f" {name}: {finding.evidence}")
    say(f"      cure: {finding.cure}")
    prompt = f"{finding.where}$" if finding.where else "$"
    for command in finding.commands:
        say(f"          {prompt} {printable.command(*command)}")
    say()


def summary(results: Sequence[Result]) -> str:
    """Return a line such as ``48 checks: 1 found something, 46 found nothing, 1 could not be made``."""
    count = Counter(result.status for result in results)
    causes = dict.fromkeys(result.because for result in results if result.status == "skipped")
    parts = [
        f"{count['fail'] + count['warn']} found something" if count["fail"] + count["warn"] else "",
        f"{count['ok']} found nothing",
        f"{count['skipped']} not made because of {', '.join(causes)}" if causes else "",
        f"{count['unknown']} could not be made" if count["unknown"] else "",
    ]
    return f"{len(results)} checks: {', '.join(filter(None, parts))}"
