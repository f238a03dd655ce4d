"""Convert the variables that an openrc.sh exports, of any age, to a login for openstacksdk. No I/O.

The variables have changed with Keystone: v2.0 had tenants and no domains (the guide's file is of that time),
v3 has projects and domains, and Horizon writes a URL without a version. Today's Keystone accepts the values
of all of them under its own names.
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
"""Advice for a missing or wrong OS_VIF_ID."""

_ELSEWHERE = {VIF, "OS_CLOUD", "OS_CLIENT_CONFIG_FILE", "OS_REGION_NAME_PROMPT"}
_DOMAINS = {
    f"{domain}_{attribute}"
    for domain in ("user_domain", "project_domain", "default_domain")
    for attribute in ("id", "name")
}
_SOURCE = (
    "source the openrc.sh of your project first (. ./openrc.sh), or name a cloud of clouds.yaml in OS_CLOUD"
)


def vif(environment: Mapping[str, str]) -> str:
    """Return the UUID of the VM's Neutron port. Raises BadRequest, which says how to find it."""
    text = environment.get(VIF, "").strip()
    try:
        return str(UUID(text))
    except ValueError:
        problem = f"{text[:80]!r} is not a UUID" if text else "is not set"
        raise BadRequest(f"{VIF} {problem}: {FIND_VIF}") from None


def login(environment: Mapping[str, str]) -> dict[str, str]:
    """Return arguments of ``openstack.connect``: ``cloud``, or a complete login.

    Only the password may be missing: see user_without_password(). Raises BadRequest, which names the missing
    variable.
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


def user_without_password(given: Mapping[str, str]) -> str | None:
    """Return the user if the login *given*, also from clouds.yaml, lacks the user's password; else None."""
    if "password" not in given.get("auth_type", "") or given.get("password"):
        return None
    return given.get("username") or given.get("user_id")


def _without_v2(url: str) -> str:
    """Return Keystone's URL without v2.0, which Keystone dropped in 2018 (Queens): clients then use v3."""
    base = url.rstrip("/")
    return base.removesuffix("/v2.0").removesuffix("/v2")


def _auth_type(given: Mapping[str, str]) -> str:
    """Return keystoneauth's name for the kind of login that the variables give."""
    if given.get("application_credential_secret"):
        return "v3applicationcredential"
    return "token" if given.get("token") and not given.get("password") else "password"


def _superfluous(given: Mapping[str, str]) -> tuple[str, ...]:
    """Return beginnings of variables that another openrc.sh may have set and that do not fit this login."""
    if "applicationcredential" in given["auth_type"]:  # which implies the project, and its ID the user
        return ("project_", "password", *(["user"] if given.get("application_credential_id") else []))
    return ("user", "password") if "token" in given["auth_type"] else ()


def _complete(given: dict[str, str]) -> None:
    """Add the domains of user and project. Raises BadRequest if the user or the project is missing."""
    if not given.get("project_id") and not given.get("project_name") and "system_scope" not in given:
        raise BadRequest("neither OS_PROJECT_ID nor OS_PROJECT_NAME (OS_TENANT_ID, ...) is set: " + _SOURCE)
    if given["auth_type"] == "password" and not given.get("username") and not given.get("user_id"):
        raise BadRequest(f"OS_USERNAME is not set: {_SOURCE}")
    if not _DOMAINS & given.keys():
        given["default_domain_id"] = "default"  # the domain that Keystone makes for users of v2.0
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
