"""Make the underlay mode's backend from environment variables (openrc.py)."""

import getpass
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ovn_docker.backends.neutron import openrc
from ovn_docker.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from ovn_docker.backends.neutron.ports import Underlay


def underlay(parent: str, variables: Mapping[str, str], *, ask: bool = False) -> "Underlay":
    """Return the backend; it connects to Neutron at its first request.

    *parent*: ``trunk`` or ``profile``; *ask*: ask for a missing password at the terminal. Raises BadRequest
    for an incomplete or invalid login, Unavailable if openstacksdk is not installed.
    """
    vif, login = openrc.vif(variables), openrc.login(variables)
    try:
        from ovn_docker.backends.neutron.api import Neutron, login_of
        from ovn_docker.backends.neutron.leases import Leases
        from ovn_docker.backends.neutron.ports import Underlay
        from ovn_docker.backends.neutron.trunk import ProfileParent, TrunkParent
    except ImportError as error:
        raise Unavailable(
            f"the underlay mode needs openstacksdk ({error}): pip install 'ovn-docker[underlay]'"
        ) from None
    if ask:
        user = openrc.user_without_password(login_of(login["cloud"]) if "cloud" in login else login)
        if user is not None:
            login["password"] = _password(user)
    neutron = Neutron(login)
    port = TrunkParent(neutron, vif) if parent == "trunk" else ProfileParent(neutron, vif)
    return Underlay(neutron, vif, port, Leases(neutron, vif, port))


def _password(user: str) -> str:
    """Ask for a password at the terminal. Raises BadRequest if there is no terminal or no password."""
    if not sys.stdin or not sys.stdin.isatty():
        raise BadRequest(
            f"OS_PASSWORD of {user} is not set, and there is no terminal to ask at: set it, or use an "
            "application credential (openstack application credential create)"
        )
    try:
        password = getpass.getpass(f"OpenStack password of {user}: ")
    except (EOFError, KeyboardInterrupt):
        password = ""
    if not password:
        raise BadRequest("no password was given")
    return password
