"""Neutron's API (docs.openstack.org, "Networking API v2.0") with one login for the life of the process.

openstacksdk logs in, finds Neutron in Keystone's catalogue and renews the token. Requests do not use its
resources: a request has to end with the deadline of the call that it serves, and a resource of openstacksdk
keeps changes that Neutron refused, and sends them again. Replies are decoded to the structs of resources.py.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote

import openstack
import openstack.config
import openstack.connection
import openstack.exceptions
from keystoneauth1 import exceptions as keystone

from ovn_docker.backends.neutron.resources import (
    NeutronBody,
    NeutronQuota,
    NeutronResource,
    TaggedResource,
    decode,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError, TimedOut, Unavailable

log = logging.getLogger(__name__)

R = TypeVar("R", bound=NeutronResource)
B = TypeVar("B", bound=NeutronBody)

_TIMEOUT = 20.0
"""Seconds that one request may take."""

_FILTER_VALUES = 80
"""Values of one filter in one request. The URL of a request may have 8 kB (Apache, LimitRequestLine), and one
IPv6 address takes almost 80 bytes of it."""

_POLICY_LOADED_FOR = 3.0
"""Seconds after a reply with contents in which Neutron's policy counts as loaded: a restart takes longer."""

_POLICY_TIME = 10.0
"""Seconds that Neutron may take to load its policy."""

_POLL = 0.25
"""Seconds between two checks whether the policy is loaded."""

_HIDDEN = {"HTTPNotFound", "PolicyNotAuthorized"}
"""Types of errors for resources that the policy hides. Absent resources have others, such as PortNotFound."""

_CURES = {
    "OverQuota": "delete resources that you do not need, or ask the cloud's operator for a larger quota",
    "IpAddressGenerationFailure": "remove containers, or create the network with a larger subnet",
    "NoNetworkAvailable": "ask the cloud's operator for more networks",
    "ExtensionNotFound": "ask the cloud's operator for it",
}
"""Advice for an error, by its type in Neutron."""


class NeutronRefused(OvnDockerError):
    """Neutron refused a request. *status*: HTTP status; *kind*, *reason*: the error's type and message."""

    def __init__(self, status: int, kind: str, reason: str, cure: str = "") -> None:
        super().__init__(f"Neutron refused the request: {reason.rstrip('.')}" + (f"; {cure}" if cure else ""))
        self.status = status
        self.kind = kind
        self.reason = reason


def login_of(cloud: str) -> Mapping[str, str]:
    """Return the login for a cloud from clouds.yaml. Raises BadRequest if the cloud is not there."""
    try:
        found = openstack.config.OpenStackConfig().get_one(cloud=cloud, validate=False).config
    except openstack.exceptions.ConfigException as error:
        raise _no_such_cloud(str(error)) from None
    return {"auth_type": found["auth_type"], **found["auth"]}


class Neutron:
    """Client of Neutron with one login (*login*: see openrc.py). The first request connects."""

    def __init__(self, login: Mapping[str, str]) -> None:
        self._login = dict(login)
        self._lock = threading.Lock()
        self._connection: openstack.connection.Connection | None = None
        self._policy_seen = float("-inf")
        """Time (time.monotonic()) of the last reply from which it follows that the policy is loaded."""
        self._clock_ahead: float | None = None
        """Neutron's clock minus time.monotonic(), from Neutron's last reply."""

    def age(self, resource: NeutronResource) -> float:
        """Return the age of a resource in seconds; infinity if it has no time of creation.

        Neutron's clock counts: this machine's may be set between two calls of Docker, and may differ from
        those of other VMs.
        """
        now = time.time() if self._clock_ahead is None else self._clock_ahead + time.monotonic()
        return now - resource.created

    def project(self, deadline: Deadline) -> str | None:
        """Return the UUID of the login's project."""
        try:
            return self._connected(deadline).session.get_project_id()
        except (openstack.exceptions.SDKException, keystone.ClientException) as error:
            raise self._explained(error) from None

    def quota(self, project: str, deadline: Deadline) -> NeutronQuota:
        """Return the limits of a project."""
        try:
            return self._one(NeutronQuota, "GET", f"/quotas/{quote(project, safe='')}", deadline)
        except NeutronRefused as refused:
            if refused.status != 404:
                raise
            return NeutronQuota()  # the cloud has no quotas

    def all(self, kind: type[R], deadline: Deadline, **filters: object) -> list[R]:
        """Return the resources of a kind that match *filters*.

        Raises:
            Unavailable: a member of a resource is missing or invalid; or an error of _ask().

        """
        return [_decoded(kind, members) for members in self._list(kind, deadline, filters)]

    def count(self, kind: type[NeutronResource], deadline: Deadline, **filters: object) -> int:
        """Return the number of resources of a kind that match *filters*."""
        return len(self._list(kind, deadline, filters | {"fields": "id"}))

    def one(self, kind: type[R], uuid: str, deadline: Deadline) -> R | None:
        """Return the resource with this UUID, or None if our project cannot see one."""
        try:
            return self._one(kind, "GET", f"/{kind.collection}/{quote(uuid, safe='')}", deadline)
        except NeutronRefused as refused:
            if refused.status != 404:
                raise
            return None

    def create(self, kind: type[R], deadline: Deadline, **attributes: object) -> R:
        """Create a resource."""
        return self._one(kind, "POST", f"/{kind.collection}", deadline, json={kind.member: attributes})

    def update(self, kind: type[R], uuid: str, deadline: Deadline, **attributes: object) -> R:
        """Change attributes of a resource."""
        return self._one(kind, "PUT", f"/{kind.collection}/{uuid}", deadline, json={kind.member: attributes})

    def delete(
        self, kind: type[NeutronResource], uuid: str, deadline: Deadline, *, revision: int | None = None
    ) -> None:
        """Delete a resource, if it exists.

        With *revision*, delete it only if that is its revision: else raise NeutronRefused with status 412.
        """
        headers = {} if revision is None else {"If-Match": f"revision_number={revision}"}
        self._delete(f"/{kind.collection}/{uuid}", deadline, headers)

    def tag(self, kind: type[TaggedResource], uuid: str, tag: str, deadline: Deadline) -> None:
        """Add a tag to a resource; the resource may have it already."""
        self._ask("PUT", f"/{kind.collection}/{uuid}/tags/{quote(tag, safe='')}", deadline)

    def untag(self, kind: type[TaggedResource], uuid: str, tag: str, deadline: Deadline) -> None:
        """Remove a tag from a resource, if both exist."""
        self._delete(f"/{kind.collection}/{uuid}/tags/{quote(tag, safe='')}", deadline, {})

    def change_subports(
        self, trunk: str, change: str, subports: Sequence[Mapping[str, object]], deadline: Deadline
    ) -> None:
        """Add subports to a trunk, or remove them; an error leaves the trunk unchanged.

        *change*: ``add`` or ``remove``.
        """
        self._ask("PUT", f"/trunks/{trunk}/{change}_subports", deadline, json={"sub_ports": list(subports)})

    def _list(
        self, kind: type[NeutronResource], deadline: Deadline, filters: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """Return the members of each resource that matches *filters*."""
        for key, values in filters.items():
            if isinstance(values, list) and len(values) > _FILTER_VALUES:
                parts = values[:_FILTER_VALUES], values[_FILTER_VALUES:]
                lists = (self._list(kind, deadline, {**filters, key: part}) for part in parts)
                return list({one["id"]: one for one in chain(*lists)}.values())
        # Neutron's database compares names without regard to case: "Web" equals "web" (MySQL,
        # utf8mb4_general_ci).
        exact = {key: filters[key] for key in ("name", "description") if key in filters}
        query = [(key, _text(item)) for key, value in filters.items() for item in _several(value)]
        found: list[dict[str, object]] = []
        key_of_list = kind.collection.replace("-", "_")
        while True:
            page = self._ask("GET", f"/{kind.collection}", deadline, params=query)
            rows = page.get(key_of_list) if isinstance(page, dict) else None
            if not isinstance(rows, list) or not all(isinstance(one, dict) and "id" in one for one in rows):
                raise _not_neutron(f"GET /{kind.collection}")
            found += [one for one in rows if all(one.get(key, text) == text for key, text in exact.items())]
            more = any(link.get("rel") == "next" for link in page.get(f"{key_of_list}_links", []))
            if not more or not rows:
                return found
            query = [(key, value) for key, value in query if key != "marker"] + [("marker", rows[-1]["id"])]

    def _one(self, kind: type[B], method: str, path: str, deadline: Deadline, **more: Any) -> B:
        """Return the contents of the reply ``{"port": {...}}`` to a request."""
        body = self._ask(method, path, deadline, **more)
        members = body.get(kind.member) if isinstance(body, dict) else None
        if not isinstance(members, dict):
            raise _not_neutron(f"{method} {path}")
        return _decoded(kind, members) if method == "GET" else decode(kind, members)

    def _delete(self, path: str, deadline: Deadline, headers: Mapping[str, str]) -> None:
        try:
            self._ask("DELETE", path, deadline, headers=dict(headers))
        except NeutronRefused as refused:
            if refused.status != 404:
                raise

    def _ask(self, method: str, path: str, deadline: Deadline, **more: Any) -> Any:
        """Return Neutron's reply to a request.

        A process of Neutron that has just started hides all resources from all projects until it has loaded
        its policy (neutron/policy.py, init). So an empty reply counts only if Neutron has just sent another
        reply with contents; otherwise the request is repeated when the policy is loaded.

        Raises:
            NeutronRefused: Neutron refused the request.
            BadRequest: the login is wrong or incomplete.
            Unavailable: OpenStack cannot be reached, or failed.
            TimedOut: OpenStack did not reply in time.

        """
        started = time.monotonic()
        try:
            reply = self._request(method, path, deadline, **more)
            if method != "GET" or not isinstance(reply, dict) or any(reply.values()):
                self._policy_seen = time.monotonic()
                return reply
            if self._policy_seen > started - _POLICY_LOADED_FOR:
                return reply
        except NeutronRefused as refused:
            if refused.kind not in _HIDDEN or self._policy_seen > started - _POLICY_LOADED_FOR:
                raise
        self._await_policy(deadline)
        return self._request(method, path, deadline, **more)

    def _await_policy(self, deadline: Deadline) -> None:
        """Wait until Neutron has loaded its policy: then it returns the project's default security group."""
        until = Deadline(deadline.left(at_most=_POLICY_TIME))
        group = {"name": "default", "fields": "id"}
        try:
            while True:
                reply = self._request("GET", "/security-groups", deadline, params=group)
                if not isinstance(reply, dict) or reply.get("security_groups") != []:
                    break
                if until.left() <= _POLL:
                    return
                time.sleep(_POLL)
        except NeutronRefused:  # this cloud has no security groups
            return
        self._policy_seen = time.monotonic()

    def _request(self, method: str, path: str, deadline: Deadline, **more: Any) -> Any:
        """Send one request. Raises as _ask does."""
        deadline.check("Neutron")
        started = time.monotonic()
        # The server may close an idle connection at the moment when a request is sent on it. Then the request
        # is sent once more, unless it creates a resource, which could then exist twice.
        may_repeat = method != "POST"
        try:
            while True:
                network = self._connected(deadline).network
                timeout = max(0.1, deadline.left(at_most=_TIMEOUT))
                try:
                    response = network.request(
                        path, method, timeout=timeout, connect_retries=0, skip_cache=True, **more
                    )
                    break
                except keystone.ConnectFailure:
                    if not may_repeat:
                        raise
                    may_repeat = False
        except (openstack.exceptions.SDKException, keystone.ClientException) as error:
            self._policy_seen = float("-inf")
            raise self._explained(error) from None
        with suppress(KeyError, TypeError, ValueError):  # RFC 9110, 6.6.1
            self._clock_ahead = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.monotonic()
        log.debug("%s %s: %d in %.3f s", method, path, response.status_code, time.monotonic() - started)
        if response.status_code >= 400:
            raise self._refused(response.status_code, response.text, _json(response), f"{method} {path}")
        return _json(response)

    def _connected(self, deadline: Deadline) -> openstack.connection.Connection:
        if not self._lock.acquire(timeout=deadline.left()):
            raise TimedOut(f"gave up after {deadline.seconds:g} s waiting for a login to OpenStack")
        try:
            if self._connection is None:
                self._connection = self._connect(deadline)
            return self._connection
        finally:
            self._lock.release()

    def _connect(self, deadline: Deadline) -> openstack.connection.Connection:
        timeout = max(0.1, deadline.left(at_most=_TIMEOUT))
        own: dict[str, Any] = dict(self._login)
        if "cloud" not in own:
            own |= {"load_yaml_config": False, "load_envvars": False}
        try:
            connection = openstack.connect(app_name="ovn-docker", api_timeout=timeout, **own)
            connection.session.get_token()  # at a later login openstacksdk hides the cause of a failure
            connection.session.timeout = _TIMEOUT  # for requests that renew the token
        except (openstack.exceptions.SDKException, keystone.ClientException):
            raise
        except Exception as error:  # noqa: BLE001 - keystoneauth raises many types for a missing value
            raise BadRequest(f"the login at {self._where()} is incomplete: {error}") from None
        return connection

    def _where(self) -> str:
        cloud = self._login.get("cloud")
        return f"cloud {cloud!r} of clouds.yaml" if cloud else f"Keystone at {self._login.get('auth_url')}"

    def _explained(self, error: Exception) -> OvnDockerError:
        """Return the error for a failed login or connection, which names the setting to change."""
        where = self._where()
        text = _short(" ".join(str(error).split()).rstrip("."))
        unreachable = _system_error(error)
        if getattr(error, "http_status", None) == 401:
            return BadRequest(
                f"{where} rejects the login: check the password, and that the user has a role in the "
                "project; try: openstack network list"
            )
        if isinstance(error, keystone.SSLError):
            return Unavailable(f"the certificate of {where} is not trusted: {text}; set OS_CACERT to its CA")
        if isinstance(error, keystone.ConnectTimeout):
            return TimedOut(f"OpenStack did not reply in time: {text}")
        if isinstance(error, keystone.ConnectFailure) or unreachable:
            at = re.search(r"https?://[^\s/'\")]+[^\s/'\"):]", text)
            if at and at[0] not in self._login.get("auth_url", at[0]):
                return Unavailable(
                    f"cannot reach Neutron at {at[0]}: {unreachable or text}; check that it runs, and that "
                    "this machine has a route to it"
                )
            return Unavailable(
                f"cannot reach OpenStack ({where}): {unreachable or text}; check OS_AUTH_URL, and that "
                "this machine has a route to it"
            )
        if isinstance(error, keystone.CatalogException | openstack.exceptions.ServiceDisabledException):
            return BadRequest(f"{where} has no Neutron in its catalogue: {text}; check OS_REGION_NAME")
        if isinstance(error, keystone.DiscoveryFailure):
            return Unavailable(f"{where} does not reply as Keystone does ({text}); check OS_AUTH_URL")
        if isinstance(error, keystone.MissingRequiredOptions):
            return BadRequest(f"the login at {where} is incomplete: {text}")
        if isinstance(error, openstack.exceptions.ConfigException):
            return _no_such_cloud(text)
        return Unavailable(f"the login at {where} failed: {text}")

    def _refused(self, status: int, text: str, body: Any, request: str) -> OvnDockerError:
        error = body.get("NeutronError", body) if isinstance(body, dict) else None
        kind = str(error.get("type", "")) if isinstance(error, dict) else ""
        reason = str(error.get("message") or text) if isinstance(error, dict) else str(error or text)
        reason = _short(" ".join(reason.split()) or f"error {status} for {request}")
        if status == 401:
            return BadRequest(f"OpenStack no longer accepts the login ({reason}); start the driver again")
        if status >= 500:
            return Unavailable(f"Neutron failed at {request}: {reason}; ask the cloud's operator")
        if status == 403:
            return NeutronRefused(
                status, kind, reason, "ask the cloud's operator to allow it, or for another role"
            )
        return NeutronRefused(status, kind, reason, _CURES.get(kind, ""))


def _decoded(kind: type[B], members: Mapping[str, object]) -> B:
    """Decode a resource from the reply to a GET request.

    A process of Neutron that has not loaded all of its policy leaves out members, such as the tags. Missing
    tags are an error, because tags mark the resources that are ours.
    """
    if issubclass(kind, TaggedResource) and members.get("tags") is None:
        raise Unavailable(
            f"Neutron returns {kind.member} {members.get('id')} without tags: it has just started; try again"
        )
    return decode(kind, members)


def _no_such_cloud(text: str) -> BadRequest:
    return BadRequest(
        f"{text.rstrip('.')}; check OS_CLOUD, and that clouds.yaml is where openstacksdk looks for it"
    )


def _not_neutron(request: str) -> Unavailable:
    return Unavailable(
        f"the reply to {request} is not from Neutron: check the address, and that no proxy or login page is "
        "in between; try: openstack network list"
    )


def _system_error(error: BaseException | None) -> str:
    """Return the operating system's message among the causes of an error, such as "Connection refused"."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return ""


def _json(response: Any) -> Any:
    try:
        return response.json() if response.content else {}
    except ValueError:
        return {}


def _several(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."
