"""ovn-northd and the servers of OVN's two databases on this machine: started, restarted and stopped."""

from ovn_docker.host.daemons import NORTHD, read_daemon
from ovn_docker.host.distribution import distribution
from ovn_docker.host.places import booted_with_systemd, find_places
from ovn_docker.host.run import StepFailed
from ovn_docker.setup.databases import DATABASES, OVN_CTL, CentralDatabase
from ovn_docker.setup.steps import Steps


def all_running() -> bool:
    """Return whether both databases and ovn-northd run."""
    return _northd_runs() and all(database.pid() for database in DATABASES)


def any_running() -> bool:
    """Return whether a database or ovn-northd runs."""
    return _northd_runs() or any(database.pid() for database in DATABASES)


def start_daemons(steps: Steps) -> None:
    """Start ovn-northd and both database servers, by systemd where it runs the machine."""
    what = "start ovn-northd and the northbound and southbound databases"
    if booted_with_systemd():
        units = distribution().northd
        steps.change(what, "systemctl", "start", *units)
        hint = f"see `journalctl {' '.join(f'-u {unit}' for unit in units)}`"
    elif any(database.clustered() for database in DATABASES):
        hint = "see the logs in /var/log/ovn"
        _start_members(steps)
    else:
        steps.change(what, *_by_ovn_ctl("start_northd"))
        hint = "see the logs in /var/log/ovn"
    steps.wait(what, all_running, seconds=15, hint=hint)
    alone = [database for database in DATABASES if not database.clustered()]
    steps.wait(what, lambda: all(database.answers() for database in alone), seconds=15, hint=hint)


def restart_server(steps: Steps, database: CentralDatabase) -> None:
    """Restart a database's server; clients connect again at once."""
    what = f"restart the {database.title}"
    if booted_with_systemd():
        steps.change(what, "systemctl", "restart", distribution().databases[database.short])
    else:
        _run_server(steps, database, what, *_by_ovn_ctl(f"restart_{database.short}_ovsdb"))
    steps.wait(what, database.answers, seconds=15, hint=f"see {database.log}")


def stop_daemons(steps: Steps) -> None:
    """Stop ovn-northd and both database servers, whether systemd or a shell has started them."""
    what = "stop ovn-northd and the northbound and southbound databases"
    if booted_with_systemd():
        steps.change(what, "systemctl", "stop", *distribution().northd)
        if steps.dry_run:
            return
    if any_running():
        steps.change(what, OVN_CTL, "stop_northd")


def _northd_runs() -> bool:
    return read_daemon(NORTHD, find_places()).pid is not None


def _start_members(steps: Steps) -> None:
    """Start the servers one by one, because ovn-ctl(8) waits half a minute for each to find a leader."""
    for database in DATABASES:
        command = _by_ovn_ctl(f"start_{database.short}_ovsdb")
        _run_server(steps, database, f"start the {database.title}", *command)
    steps.change("start ovn-northd", *_by_ovn_ctl("start_northd --ovn-manage-ovsdb=no"))


def _by_ovn_ctl(command: str) -> tuple[str, ...]:
    """Return a command line of ovn-ctl(8) with the options of the distribution's file, as in its units."""
    names = distribution()
    return "sh", "-c", f". {names.options}; exec {OVN_CTL} {command} ${names.variable}"


def _run_server(steps: Steps, database: CentralDatabase, what: str, *command: str) -> None:
    """Run a command that starts a server; ignore its failure if a member runs, without a leader so far."""
    try:
        steps.change(what, *command)
    except StepFailed:
        if not (database.clustered() and database.pid()):
            raise
