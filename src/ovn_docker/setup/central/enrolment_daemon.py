"""The enrolment service beside the databases: started and stopped as a daemon."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from ovn_docker.host.places import booted_with_systemd, find_places
from ovn_docker.host.processes import running
from ovn_docker.host.run import succeeds
from ovn_docker.setup.central import listeners
from ovn_docker.setup.central.listeners import Listener
from ovn_docker.setup.certificates import DIRECTORY, read_certificate
from ovn_docker.setup.databases import NORTHBOUND
from ovn_docker.setup.own_addresses import source_address
from ovn_docker.setup.own_programs import find_program
from ovn_docker.setup.steps import Steps

_NAME = "ovn-docker-enrolment"
LOG = f"/var/log/ovn/{_NAME}.log"
UNIT = f"{_NAME}.service"


def start_enrolment(steps: Steps) -> None:
    """Start the service if this machine has the authority and its databases listen with TLS."""
    if not is_wanted() or is_running():
        return
    if _is_unit():
        steps.change("answer hosts that join", "systemctl", "enable", "--now", UNIT)
        hint = f"see `journalctl -u {UNIT}`"
    else:
        steps.change("answer hosts that join", find_program("ovn-docker"), "token", "serve", "--detach")
        hint = f"see {LOG}"
    steps.wait("start of the enrolment service", is_running, seconds=15, hint=hint)


def stop_enrolment(steps: Steps) -> None:
    """Stop the service."""
    if _is_unit() and succeeds("systemctl", "is-active", "--quiet", UNIT):
        steps.change("answer no hosts that join", "systemctl", "disable", "--now", UNIT)
    if pid := running(pidfile()):
        steps.show("answer no hosts that join", f"kill {pid}")
        if not steps.dry_run:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        steps.wait(
            "end of the enrolment service", lambda: not is_running(), seconds=20, hint=f"kill -9 {pid}"
        )


def pidfile() -> Path:
    """Return the path of the service's pidfile, which the service locks."""
    return find_places().central / f"{_NAME}.pid"


def is_running() -> bool:
    """Return whether the service runs."""
    return running(pidfile()) is not None


def command_to_join(token: str) -> str:
    """Return the command that joins this central machine, with one of the addresses in its certificate."""
    listener = listeners.now(NORTHBOUND)
    addresses: tuple[str, ...] = ()
    if listener and listener.tls:
        addresses = read_certificate(Path(listener.tls.certificate)).addresses
    usual = str(source_address("192.0.2.1"))  # that of the default route
    address = usual if usual in addresses else next(iter(addresses), "CENTRAL")
    return f"ovn-docker join {address} --token {token}"


def is_authority_of(listener: Listener) -> bool:
    """Return whether the authority on this machine, with its key, is that of a listener."""
    try:
        own = (DIRECTORY / "ca.pem").read_text(encoding="utf-8")
        return (
            listener.tls is not None
            and (DIRECTORY / "ca-key.pem").exists()
            and Path(listener.tls.ca_cert).read_text(encoding="utf-8") == own
        )
    except OSError:
        return False


def is_wanted() -> bool:
    """Return whether this machine is to answer hosts that join: it has the authority of its listeners."""
    listener = listeners.now(NORTHBOUND)
    return listener is not None and is_authority_of(listener)


def _is_unit() -> bool:
    return booted_with_systemd() and succeeds("systemctl", "cat", UNIT)
