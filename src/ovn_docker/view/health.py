"""Checks, and how their findings become a diagnosis: causes are reported, their consequences are not. Pure.

A check has a name, depends on others, and looks at the facts. If something that it depends on is wrong, it is
not looked at: whatever it would find follows from that. Findings about one host or one container hide only
what is about the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ovn_docker.model import Difference
from ovn_docker.view.cloud import Cloud
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.probes import Probes
from ovn_docker.view.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks look at."""

    cluster: Cluster
    probes: Probes
    cloud: Cloud | None = None
    """In the underlay mode."""
    bridge: str = "breth0"
    """There, the bridge with the VM's interface."""
    leftovers: Sequence[Difference] | str = ()
    """What should not be (reconcile.py), or why nobody can tell."""

    @property
    def snapshot(self) -> Snapshot:
        """What was read."""
        return self.cluster.snapshot


class Severity(StrEnum):
    """FAIL: something does not work, or will not for the next container. WARN: it does, for now."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: the *evidence*, the *cure* in words, and *commands* that do it.

    *subject*: the host (system-id) or endpoint that it is about, empty for this host as a whole; *where*:
    name of the host to type the commands on, empty for this one; *safe*: they cost nothing, and may be typed
    for the user.
    """

    evidence: str
    cure: str
    commands: tuple[tuple[str, ...], ...] = ()
    subject: str = ""
    where: str = ""
    safe: bool = False
    severity: Severity = Severity.FAIL


class NotChecked(Exception):
    """A check could not be made; the text says why."""


Look = Callable[[Facts], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """*name* in kebab-case; *about*: what is right when nothing is found. *look* may raise NotChecked."""

    name: str
    about: str
    depends_on: tuple[str, ...]
    look: Look


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check. *because*: the check whose finding explains it, or why it was not made."""

    check: Check
    status: str
    """``ok``, ``warn``, ``fail``, ``skipped`` (see *because*) or ``unknown`` (could not be looked at)."""
    findings: tuple[Finding, ...] = ()
    because: str = ""


def examine(facts: Facts, checks: Sequence[Check]) -> tuple[Result, ...]:
    """Results in the order of the checks, each of which depends on earlier ones only."""
    results: dict[str, Result] = {}
    hidden: dict[str, set[str]] = {}
    for check in checks:
        depends = [results[name] for name in check.depends_on]
        subjects = {f.subject for one in depends for f in one.findings if f.severity is Severity.FAIL}
        subjects |= {subject for one in depends for subject in hidden[one.check.name]}
        hidden[check.name] = set(subjects)
        results[check.name] = _result(facts, check, depends, subjects)
    return tuple(results.values())


def _result(facts: Facts, check: Check, depends: list[Result], hidden: set[str]) -> Result:
    for one in depends:
        if one.status == "skipped":
            return Result(check, "skipped", because=one.because)
        if any(not f.subject and f.severity is Severity.FAIL for f in one.findings):
            return Result(check, "skipped", because=one.check.name)
    try:
        findings = tuple(finding for finding in check.look(facts) if finding.subject not in hidden - {""})
    except NotChecked as reason:
        return Result(check, "unknown", because=str(reason))
    if not findings:
        return Result(check, "ok")
    worst = Severity.FAIL if any(f.severity is Severity.FAIL for f in findings) else Severity.WARN
    return Result(check, worst.value, findings)
