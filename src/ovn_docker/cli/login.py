"""The underlay mode's backend, logged in as the environment has it (openrc.py)."""

import getpass
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ovn_docker.backends import openrc
from ovn_docker.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from ovn_docker.backends.underlay import Underlay


def underlay(parent: str, variables: Mapping[str, str], *, ask: bool = False) -> "Underlay":
    """How containers are behind this VM: *parent* is ``trunk`` or ``profile``. Nobody connects yet.

    *ask*: a password that is missing is asked for at the terminal. Raises BadRequest for a login that cannot
    be one, Unavailable without openstacksdk.
    """
    vif, login = openrc.vif(variables), openrc.login(variables)
    try:
        from ovn_docker.backends.leases import Leases
        from ovn_docker.backends.neutron import Neutron, login_of
        from ovn_docker.backends.trunk import Profile, Trunk
        from ovn_docker.backends.underlay import Underlay
    except ImportError as error:
        raise Unavailable(
            f"the underlay mode needs openstacksdk ({error}): pip install 'ovn-docker[underlay]'"
        ) from None
    if ask:
        user = openrc.asks_for_password(login_of(login["cloud"]) if "cloud" in login else login)
        if user is not None:
            login["password"] = _password(user)
    neutron = Neutron(login)
    behind = Trunk(neutron, vif) if parent == "trunk" else Profile(neutron, vif)
    return Underlay(neutron, vif, behind, Leases(neutron, vif, behind))


def _password(user: str) -> str:
    """Raises BadRequest without a terminal to ask at."""
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
