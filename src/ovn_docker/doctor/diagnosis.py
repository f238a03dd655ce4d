"""Make a diagnosis of checks: report causes, not their consequences. Pure.

A check has a name, depends on other checks, and reads the facts. It is skipped if a check that it depends on
has found something, because its own findings would follow from that. A finding about one host or container
hides only findings about the same host or container.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ovn_docker.inspect.cloud import Cloud
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.probes import Probes
from ovn_docker.inspect.snapshot import Snapshot
from ovn_docker.model import Difference


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that checks read."""

    cluster: ClusterView
    probes: Probes
    cloud: Cloud | None = None
    """The underlay mode's cloud; ``None`` in the overlay mode."""
    bridge: str = "breth0"
    """In the underlay mode, the bridge with the VM's interface."""
    leftovers: Sequence[Difference] | str = ()
    """The differences that reconciliation finds (core/reconcile.py), or the reason why they are unknown."""

    @property
    def snapshot(self) -> Snapshot:
        """The state of the cluster that was read."""
        return self.cluster.snapshot


class Severity(StrEnum):
    """FAIL: something does not work, or will not for the next container. WARN: everything works for now."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault: its *evidence*, the *cure* in words, and the *commands* of the cure.

    *subject*: the host (system-id) or endpoint that has the fault, empty for this host as a whole; *where*:
    name of the host to run the commands on, empty for this one; *safe*: the commands can do no harm, and
    ``--fix`` runs them.
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


CheckFunction = Callable[[Facts], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check: *name* in kebab-case; *about*: what is true without findings. *run* may raise NotChecked."""

    name: str
    about: str
    depends_on: tuple[str, ...]
    run: CheckFunction


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check. *because*: the check that explains why it was skipped, or why it is unknown."""

    check: Check
    status: str
    """``ok``, ``warn``, ``fail``, ``skipped`` or ``unknown`` (the check could not be made)."""
    findings: tuple[Finding, ...] = ()
    because: str = ""


def examine(facts: Facts, checks: Sequence[Check]) -> tuple[Result, ...]:
    """Run *checks* in order, each of which depends on earlier ones only, and return their results.

    A dependence on a check that is not among *checks* is ignored.
    """
    results: dict[str, Result] = {}
    hidden: dict[str, set[str]] = {}
    for check in checks:
        depends = [results[name] for name in check.depends_on if name in results]
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
        findings = tuple(finding for finding in check.run(facts) if finding.subject not in hidden - {""})
    except NotChecked as reason:
        return Result(check, "unknown", because=str(reason))
    if not findings:
        return Result(check, "ok")
    worst = Severity.FAIL if any(f.severity is Severity.FAIL for f in findings) else Severity.WARN
    return Result(check, worst.value, findings)
