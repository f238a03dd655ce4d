"""Logins as openrc.sh files of all generations export them, in the words of openstacksdk. Pure.

What openrc.sh holds has changed with Keystone: v2.0 knew tenants and no domains (the guide's file is of that
time), v3 has projects and domains, Horizon writes an address without a version. A Keystone of today answers
all of them if they are put in its words.
"""

from collections.abc import Mapping
from uuid import UUID

from ovn_docker.errors import BadRequest

VIF = "OS_VIF_ID"
"""The variable that the guide adds to openrc.sh: the Neutron port of the VM's interface."""

FIND_VIF = (
    "it is the ID of the Neutron port of this VM's interface; find it with: openstack port list "
    f"--mac-address MAC (MAC of the interface: ip link), and set it: export {VIF}=ID"
)
"""What to do without the right one."""

_ELSEWHERE = {VIF, "OS_CLOUD", "OS_CLIENT_CONFIG_FILE", "OS_REGION_NAME_PROMPT"}
_DOMAINS = {
    f"{whose}_{what}"
    for whose in ("user_domain", "project_domain", "default_domain")
    for what in ("id", "name")
}
_SOURCE = (
    "source the openrc.sh of your project first (. ./openrc.sh), or name a cloud of clouds.yaml in OS_CLOUD"
)


def vif(environment: Mapping[str, str]) -> str:
    """UUID of the VM's Neutron port. Raises BadRequest that says where to find it."""
    text = environment.get(VIF, "").strip()
    try:
        return str(UUID(text))
    except ValueError:
        said = f"{text[:80]!r} is no UUID" if text else "is not set"
        raise BadRequest(f"{VIF} {said}: {FIND_VIF}") from None


def login(environment: Mapping[str, str]) -> dict[str, str]:
    """What to give to ``openstack.connect``: ``cloud``, or all that it has to know.

    Without a password, where one is needed, there is no ``password``: see asks_for_password().
    Raises BadRequest with the variable that is missing.
    """
    if environment.get("OS_CLOUD"):
        return {"cloud": environment["OS_CLOUD"]}
    given = {
        name.removeprefix("OS_").lower(): value
        for name, value in environment.items()
        if name.startswith("OS_") and name not in _ELSEWHERE and value
    }
    if not given.get("auth_url"):
        raise BadRequest(f"OS_AUTH_URL is not set: {_SOURCE}")
    given["auth_url"] = _without_v2(given["auth_url"])
    if given.get("identity_api_version", "").startswith("2"):
        del given["identity_api_version"]
    for what in ("id", "name"):
        tenant = given.pop(f"tenant_{what}", "")
        if tenant:
            given.setdefault(f"project_{what}", tenant)
    token = given.pop("auth_token", "")
    if token:
        given.setdefault("token", token)
    given.setdefault("auth_type", _auth_type(given))
    if "applicationcredential" not in given["auth_type"]:
        _complete(given)
    superfluous = _superfluous(given)
    return {name: value for name, value in given.items() if not name.startswith(superfluous)}


def asks_for_password(given: Mapping[str, str]) -> str | None:
    """Whose password has to be asked for, if any; *given*: a login, or what clouds.yaml says of it."""
    if "password" not in given.get("auth_type", "") or given.get("password"):
        return None
    return given.get("username") or given.get("user_id")


def _without_v2(url: str) -> str:
    """Keystone v2.0 is gone since 2018 (Queens): from the address without a version, v3 is found."""
    base = url.rstrip("/")
    return base.removesuffix("/v2.0").removesuffix("/v2")


def _auth_type(given: Mapping[str, str]) -> str:
    """How keystoneauth calls what these variables are for."""
    if given.get("application_credential_secret"):
        return "v3applicationcredential"
    return "token" if given.get("token") and not given.get("password") else "password"


def _superfluous(given: Mapping[str, str]) -> tuple[str, ...]:
    """How variables begin that this kind of login must not have, but an openrc.sh sourced before may set."""
    if "applicationcredential" in given["auth_type"]:  # it is of one project; its ID says whose it is
        return ("project_", "password", *(["user"] if given.get("application_credential_id") else []))
    return ("user", "password") if "token" in given["auth_type"] else ()


def _complete(given: dict[str, str]) -> None:
    """The project, the user and the domains of both. Raises BadRequest."""
    if not given.get("project_id") and not given.get("project_name") and "system_scope" not in given:
        raise BadRequest("neither OS_PROJECT_ID nor OS_PROJECT_NAME (OS_TENANT_ID, ...) is set: " + _SOURCE)
    if given["auth_type"] == "password" and not given.get("username") and not given.get("user_id"):
        raise BadRequest(f"OS_USERNAME is not set: {_SOURCE}")
    if not _DOMAINS & given.keys():
        given["default_domain_id"] = "default"  # Keystone's own name for where users of v2.0 are
    for one, other in (("user", "project"), ("project", "user")):
        if (
            not {f"{one}_domain_id", f"{one}_domain_name", "default_domain_id", "default_domain_name"}
            & given.keys()
        ):
            given |= {
                f"{one}_domain_{what}": given[f"{other}_domain_{what}"]
                for what in ("id", "name")
                if f"{other}_domain_{what}" in given
            }
